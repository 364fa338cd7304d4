"""Tests of the Triton kernels of linear_int8, linear_int4 and linear_fp8 (triton_kernel.py of each, linear_parts/triton_parts.py) under
Triton's interpreter, against reference.py and epilogue.py."""

from itertools import product

import pytest
import torch

pytest.importorskip("triton")

from szilard.kernels.linear_fp8 import triton_kernel as fp8
from szilard.kernels.linear_int4 import triton_kernel as int4
from szilard.kernels.linear_int8 import triton_kernel as int8

from . import linear_triton
from .triton_interpreter import Interpreter

CLOSE = {"float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}
"""Not in bfloat16 under the interpreter: that of Triton 3.9 multiplies its bits as integers."""
FORMS = [
    ("int8", {"group": 0}), ("int8", {"group": 64}), ("int4", {"group": 32}), ("int4", {"group": 64, "shifted": False}),
    ("int4", {"group": 128}), ("fp8", {}), ("fp8", {"rows_in_fp8": True}),
]  # fmt: skip
EPILOGUES = [
    {"activation": "none", "bias": False}, {"activation": "relu", "residual": True},
    {"activation": "gelu", "bias": False, "residual": True}, {"activation": "silu"},
]  # fmt: skip


@pytest.fixture(scope="module")
def interpreted():
    child = Interpreter()
    yield lambda function, **arguments: child(f"linear_triton:{function}", **arguments)
    child.close()


@pytest.mark.parametrize(("kernel", "options"), FORMS)
def test_odd_sizes_agree_with_the_reference(interpreted, kernel, options):
    """One row, a few, and more than a tile; K that no tile divides, and split over programs."""
    for at, (shape, columns) in enumerate((((1, 77), 11), ((1, 1100), 70), ((2, 3, 1033), 65))):
        error = interpreted("agreement", kernel=kernel, shape=shape, columns=columns, **options, **EPILOGUES[at])
        assert error < CLOSE["float32"], (shape, columns)


@pytest.mark.long
@pytest.mark.parametrize(("kernel", "options"), FORMS)
@pytest.mark.parametrize(
    ("shape", "columns"), [((1, 1), 1), ((1, 2049), 33), ((17, 64), 64), ((131, 70), 129), ((257, 33), 20)]
)
def test_any_size_agrees_with_the_reference(interpreted, shape, columns, kernel, options):
    for at, dtype in enumerate(("float32", "float16")):
        epilogue = EPILOGUES[(shape[0] + columns + at) % len(EPILOGUES)]
        error = interpreted("agreement", kernel=kernel, shape=shape, columns=columns, dtype=dtype, **options, **epilogue)
        assert error < CLOSE[dtype], (dtype, epilogue)


def test_parts_of_k_are_written_apart_or_added_as_they_come(interpreted):
    split, apart, error = interpreted("parts", deterministic=True)
    assert split > 1
    assert apart == [[split, 2, 70]]
    assert error < CLOSE["float32"]
    _, added, error = interpreted("parts", deterministic=False)
    assert added == [[1, 2, 70]]
    assert error < CLOSE["float32"]


def test_every_number_of_e4m3_is_widened_exactly_without_the_gpus_help(interpreted):
    assert interpreted("every_code") == 0.0


def test_kernels_with_the_gpus_own_fp8_agree_too(interpreted):
    errors, scale, code = interpreted("native_fp8")
    assert max(errors) < CLOSE["float32"]
    assert scale == 0.0
    assert code == 0


@pytest.mark.parametrize(("kernel", "options"), FORMS)
def test_a_vector_and_scales_that_are_one_number_in_memory(interpreted, kernel, options):
    error = interpreted(
        "agreement", kernel=kernel, shape=(77,), columns=11, residual=True, one_scale=True, activation="relu", **options
    )
    assert error < CLOSE["float32"]


def test_a_nan_spoils_its_row_in_fp8(interpreted):
    assert interpreted("rows_that_are_not_finite") == [[False, True, False, False]] * 2


def test_kernels_run_on_the_device_of_their_operands(interpreted):
    assert interpreted("launches") == [True] * 3


def test_nothing_in_gives_nothing_or_the_bias():
    for rows, columns in ((0, 3), (2, 0)):
        weight, scale = torch.zeros((5, columns), dtype=torch.int8), torch.ones(columns)
        assert int8.linear_int8_triton(torch.randn(rows, 5), weight, scale).shape == (rows, columns)
    y = int8.linear_int8_triton(torch.ones(2, 0), torch.ones((0, 3), dtype=torch.int8), torch.ones(3), torch.ones(3))
    assert y.tolist() == [[1.0] * 3] * 2


X, BYTES, ONES = torch.zeros(2, 70), torch.zeros((64, 4), dtype=torch.uint8), torch.ones(4)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: int8.linear_int8(torch.zeros(2, 3, dtype=torch.int32), torch.zeros(3, 4, dtype=torch.int8), ONES),
            "fp16, bf16 or",
        ),
        (lambda: int8.linear_int8(torch.zeros(2, 3), torch.zeros(3, 4), ONES), "weight as int8"),
        (lambda: int8.linear_int8(torch.zeros(2, 5), torch.zeros(3, 4, dtype=torch.int8), ONES), "last axis of x"),
        (lambda: int8.linear_int8(torch.zeros(2, 3), torch.zeros(3, 4, dtype=torch.int8), ONES[:3]), "one scale a column"),
        (lambda: int8.linear_int8(torch.zeros(2, 3), torch.zeros(3, 4, dtype=torch.int8), ONES, ONES[:2]), "one bias a column"),
        (lambda: int8.linear_int8(torch.zeros(2, 3), torch.zeros(3, 4, dtype=torch.int8), ONES, group=16), "groups of 32"),
        (lambda: int4.linear_int4(X, BYTES, torch.ones(2, 4), group=64, activation="tanh"), "no activation 'tanh'"),
        (
            lambda: int4.linear_int4(X, BYTES, torch.ones(2, 4), residual=torch.ones(2, 3), group=64),
            "of the shape of its output",
        ),
        (lambda: int4.linear_int4(X, BYTES[:32], torch.ones(2, 4), group=64), "weights packed for x"),
        (lambda: int4.linear_int4(X, BYTES, torch.ones(1, 4), group=64), "one scale a group of rows and column"),
        (lambda: int4.linear_int4(X, BYTES, torch.ones(2, 4), ONES, group=64), "one shift a group of rows"),
        (lambda: int4.linear_int4(X, BYTES, torch.ones(2, 4), group=48), "groups of 32"),
        (lambda: fp8.linear_fp8(X, torch.zeros(4, 70), ONES), "float8_e4m3fn"),
    ],
)
def test_operands_that_do_not_fit_are_named(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("kernel", "options"), FORMS)
def test_on_a_gpu_all_is_as_under_the_interpreter(kernel, options):
    for dtype, epilogue, rows in product(CLOSE, EPILOGUES, (1, 3, 16, 100, 300, 1500)):
        error = linear_triton.agreement(kernel, (rows, 1111), 777, dtype, device="cuda", **options, **epilogue)
        assert error < 2 * CLOSE[dtype], (dtype, epilogue, rows)
