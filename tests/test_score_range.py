"""Scores of formats with float16 inputs: the error of a real rewrite, and a refusal beyond what float16 holds."""

import math

import numpy as np
import pytest

from szilard.kernels.quantized_linear.half_formats import HALF_FORMATS
from szilard.passes.find import find
from szilard.rewriter.backend import groups_of
from szilard.rewriter.backend_onnx import OnnxBackend
from szilard.rewriter.calibration_data import relative_error
from szilard.rewriter.score import representative, score_linears
from szilard.rewriter.score_range import out_of_range

from .onnx_texts import model, normal
from .test_score import outputs, rewritten

TEXT = "(float[N,64] x) => (float[N,9] y) { p = MatMul(x, w) s = Add(p, b) t = Tanh(s) y = MatMul(t, v) }"


def scored(weights, data, actions=HALF_FORMATS):
    backend, graph = OnnxBackend(data[0]), model(TEXT, weights)
    net = backend.view(graph, {"x": data[0]["x"].shape})
    groups = [group for group in groups_of(find(net).sites) if group.kind == "linear"]
    with backend.probe(graph, [g.sites[0].x for g in groups], [value for g in groups for value in g.outputs]) as probe:
        return backend, graph, groups, score_linears(dict.fromkeys(groups, actions), net, probe, data)


def arrays(scale=1.0):
    return {"w": normal(0, 64, 65) * np.float32(scale), "b": normal(1, 65), "v": normal(2, 65, 9)}


def test_the_score_is_the_error_of_a_real_rewrite():
    data = [{"x": normal(seed, 33, 64)} for seed in (4, 5)]
    backend, graph, groups, scores = scored(arrays(), data)
    reference = outputs(backend, graph, representative(data))
    for group in groups:
        errors = {}
        for action in HALF_FORMATS:
            score = scores[group.id, action]
            real = relative_error(outputs(backend, rewritten(backend, graph, group, action, scores), data), reference)
            assert score.refusal == ""
            if action == "float16":
                # The CPU provider has no float16 product: it casts up before and back behind, and drops Casts that undo each other.
                assert real < score.error < 3 * real
            else:
                assert score.error == pytest.approx(real, rel=0.02)
            errors[action] = score.error
        assert 0 < errors["float16"] < 0.05 * errors["int8_weight_float16"] < 0.05 * errors["int4_weight_float16"]


@pytest.mark.parametrize(
    ("weight", "x", "word"),
    [(1e6, 1e-6, "weights reach"), (1e-6, 1e6, "inputs reach"), (3e3, 30.0, "outputs reach")],
)
def test_what_float16_cannot_hold_is_refused_with_the_number(weight, x, word):
    data = [{"x": normal(seed, 33, 64) * np.float32(x)} for seed in (4, 5)]
    _, _, groups, scores = scored(arrays(weight), data)
    for action in HALF_FORMATS:
        refused, other = (scores[group.id, action] for group in groups)
        assert f"its {word} " in refused.refusal
        assert refused.refusal.endswith("and float16 holds numbers up to 65504")
        assert math.isinf(refused.error)
        assert not refused.prepared
        assert other.refusal == ""


def test_the_sum_before_the_bias_counts_and_other_formats_are_not_asked():
    weight, bias, x = np.full((1, 1), 100.0), np.array([-60000.0]), np.full((1, 1), 1000.0)
    assert "outputs reach 1e+05" in out_of_range("float16", [weight], [bias], [x])
    assert "outputs reach 1.2e+05" in out_of_range("float16", [weight], [-bias - 40000], [x])
    assert out_of_range("int8_weight", [weight], [bias], [x]) == ""
    assert out_of_range("float16", [weight], [None], [x / 2]) == ""
    assert "weights reach nan" in out_of_range("float16", [weight * np.nan], [None], [x])
