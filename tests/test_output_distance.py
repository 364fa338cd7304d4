"""The distance of two models' outputs, and when there is none to give."""

import numpy as np
import pytest

from szilard.cost_model.program import Program
from szilard.rewriter.output_distance import output_distance

X = np.random.default_rng(4).standard_normal((3, 5)).astype(np.float32)


def program(*outputs: str) -> Program:
    return Program(None, "onnxruntime", {"x": X}, ("x",), outputs, {}, "test")


def bind(*functions):
    return lambda feeds: lambda: [function(feeds["x"]) for function in functions]


def identity(x):
    return x


def test_equal_outputs_are_not_apart():
    found = output_distance(program("y"), program("y"), [bind(identity), bind(identity)], [{"x": X}, {"x": 2 * X}])
    assert found == {"relative_squared": 0.0, "cosine": pytest.approx(1.0), "samples": 2}


def test_a_known_distance():
    found = output_distance(program("y"), program("y"), [bind(identity), bind(lambda x: 1.1 * x)], [{"x": X}])
    assert found["relative_squared"] == pytest.approx(0.01, rel=1e-4)
    assert found["cosine"] == pytest.approx(1.0)
    turned = output_distance(program("y"), program("y"), [bind(identity), bind(np.negative)], [{"x": X}])
    assert turned["cosine"] == pytest.approx(-1.0)


def test_outputs_match_by_name_then_by_place():
    swapped = output_distance(
        program("y", "z"), program("z", "y"), [bind(identity, np.negative), bind(np.negative, identity)], [{"x": X}]
    )
    assert swapped["relative_squared"] == 0.0
    renamed = output_distance(
        program("y", "z"), program("p", "q"), [bind(identity, np.negative), bind(identity, np.negative)], [{"x": X}]
    )
    assert renamed["relative_squared"] == 0.0


def test_outputs_that_cannot_be_compared():
    found = output_distance(program("y"), program("y", "z"), [bind(identity), bind(identity, identity)], [{"x": X}])
    assert "A has 1 outputs and B has 2" in found["unavailable"]
    found = output_distance(program("y"), program("y"), [bind(identity), bind(lambda x: x[:, :2])], [{"x": X}])
    assert "different shapes" in found["unavailable"]


def test_rows_of_zeros_count_as_equal():
    zeros = bind(lambda x: 0 * x)
    assert output_distance(program("y"), program("y"), [zeros, zeros], [{"x": X}])["cosine"] == 1.0


def test_padding_is_not_compared():
    mask, words = np.array([[1, 1, 0], [1, 1, 1]]), np.ones((2, 3, 4), np.float32)

    def other(x):
        return np.where(mask[..., None] == 1, x, -x)

    sample = {"x": words, "attention_mask": mask}
    found = output_distance(program("y"), program("y"), [bind(identity), bind(other)], [sample])
    assert found == {"relative_squared": 0.0, "cosine": 1.0, "samples": 1}
    apart = output_distance(program("y"), program("y"), [bind(identity), bind(other)], [{"x": words}])
    assert apart["cosine"] == pytest.approx(4 / 6)
