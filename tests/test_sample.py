"""A sample that a user gives is read by name or in order, cast, and refused with a sentence where it does not fit."""

import ml_dtypes
import numpy as np
import pytest
import torch

from szilard.cost_model.errors import InputError
from szilard.cost_model.program import Program
from szilard.rewriter.sample import named_sample, with_sample

PROGRAM = Program(
    None,
    "torch",
    {"x": np.zeros((2, 3), np.float32), "ids": np.zeros((2,), np.int64)},
    ("x", "ids"),
    ("y",),
    {"x": {0: "N"}},
    "test",
)
X, IDS = np.random.default_rng(0).standard_normal((5, 3)), np.array([4, 7])


@pytest.mark.parametrize(
    "given", [{"ids": IDS, "x": X}, (X, IDS), [torch.from_numpy(X).requires_grad_(), torch.from_numpy(IDS)]]
)
def test_by_name_in_order_and_as_tensors(given):
    found = with_sample(PROGRAM, given).sample
    assert list(found) == ["x", "ids"]
    assert {name: array.dtype for name, array in found.items()} == {"x": np.float32, "ids": np.int64}
    np.testing.assert_array_equal(found["x"], X.astype(np.float32))
    np.testing.assert_array_equal(found["ids"], IDS)


def test_the_one_input_itself_and_its_bits():
    found = named_sample(torch.ones(3, dtype=torch.bfloat16), ("x",))["x"]
    assert found.dtype == ml_dtypes.bfloat16
    assert named_sample(np.float32(2), ("x",))["x"].shape == ()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"x": X}, r"missing \['ids'\], unknown \[\]"),
        ({"x": X, "ids": IDS, "idz": IDS}, r"unknown \['idz'\]; the model reads \['x', 'ids'\]"),
        ((X,), "holds 1 arrays, and the model reads 2: x, ids"),
        ((X[:, :2], IDS), "input x has shape 5x2, the model reads Nx3"),
        ((X[0], IDS), "input x has shape 3, the model reads Nx3"),
        ((X, IDS[:1]), "input ids has shape 1, the model reads 2"),
        ((X, IDS * 0.5), "input ids has dtype float64, the model reads int64"),
        ((X * np.inf, IDS), "input x holds NaN or infinity"),
    ],
)
def test_what_does_not_fit_is_a_sentence(given, words):
    with np.errstate(invalid="ignore"), pytest.raises(InputError, match=words) as caught:
        with_sample(PROGRAM, given)
    assert str(caught.value).startswith("The sample")
    assert str(caught.value).endswith(".")
