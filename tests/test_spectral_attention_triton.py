"""Tests of kernels/spectral_attention/triton.py under Triton's interpreter, against the reference, and so of its parts: triton_order.py,
triton_tiles.py, triton_scores.py, triton_attend.py, triton_attend_backward.py, triton_gradient.py, triton_options.py."""

import pytest
import torch

pytest.importorskip("triton")

from szilard.kernels.spectral_attention import triton as kernels

from . import spectral_triton
from .sparse_attention import operands
from .triton_interpreter import Interpreter

SMALL = {"dtype": "float32", "batch": 1, "heads": [2, 1], "queries": 50, "keys": 70, "width": 20, "depth": 16}
CLOSE = {"float32": 5e-6, "float16": 2e-3, "bfloat16": 1.2e-2}


@pytest.fixture(scope="module")
def interpreted():
    child = Interpreter()
    child("spectral_triton:same_order", **SMALL, masked=False)
    yield lambda function, **arguments: child(f"spectral_triton:{function}", **arguments)
    child.close()


def check(found, dtype="float32"):
    assert max(found) < CLOSE[dtype], found


def test_outputs_and_gradients_are_those_of_the_reference(interpreted):
    """Odd sizes, tiles that are no power of two, a budget for each head, one of them more than there are tiles."""
    found = interpreted("agreement", tile=24, key_tile=40, budget=[1, 9], gradients=True, **SMALL)
    assert len(found) == 4
    check(found)


def test_half_precision_is_the_reference_rounded(interpreted):
    for dtype in ("float16", "bfloat16"):
        check(interpreted("agreement", tile=32, budget=1, **{**SMALL, "dtype": dtype}), dtype)


def test_rows_out_of_the_mask_weigh_nothing_and_rows_without_keys_are_zeros(interpreted):
    sizes = {**SMALL, "batch": 2, "queries": 20, "heads": [1, 1], "masked": True}
    check(interpreted("agreement", tile=32, key_tile=16, budget=2, **sizes))


def test_rows_are_sorted_as_the_reference_sorts_them(interpreted):
    sizes = {**SMALL, "batch": 2, "queries": 1, "keys": 333, "leaves": 11}
    assert interpreted("same_order", **sizes, masked=True) == [True, True]


def test_all_tiles_are_dense_attention_and_a_constant_comes_back(interpreted):
    check(interpreted("limits", tile=32, **SMALL))


def test_the_log_sum_exp_is_the_references(interpreted):
    check([interpreted("logsum", tile=32, budget=1, **{**SMALL, "heads": [1, 1]})])


def test_nothing_waits_for_the_host(interpreted):
    """Neither an operator that reads a number from a tensor nor one whose shape depends on one, forward or backward."""
    waits, count = interpreted("waits", **{**SMALL, "queries": 16, "keys": 20, "width": 16, "masked": True})
    assert waits == []
    assert count > 20


def test_the_registered_operator_runs_the_kernels_on_a_gpu(interpreted):
    """Once forward, once more for the gradients."""
    sizes = {**SMALL, "queries": 20, "keys": 40, "heads": [1, 1]}
    found, calls = interpreted("registered", tile=32, budget=1, **sizes)
    check(found)
    assert calls == 2


def test_an_output_is_freed_with_its_last_name(interpreted):
    assert interpreted("freed", tile=16, budget=1, **{**SMALL, "queries": 16, "keys": 16, "width": 16})


@pytest.mark.long
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("queries", "keys", "width", "depth", "tile", "key_tile", "budget"),
    [
        (1, 1, 16, 16, 64, 64, 1), (1, 130, 33, 48, 64, 64, 1), (97, 1, 64, 16, 16, 16, 0), (66, 90, 80, 65, 64, 64, [1, 2]),
        (33, 140, 100, 128, 128, 128, [1, 0]), (65, 96, 32, 128, 64, 16, [3, 1]), (40, 60, 6, 5, 8, 6, [0, 4]),
        (20, 40, 128, 128, 24, 128, 1), (33, 64, 16, 24, 100, 32, 1),
    ],
)  # fmt: skip
def test_any_size_agrees_with_the_reference(interpreted, queries, keys, width, depth, tile, key_tile, budget, masked):
    sizes = {**SMALL, "queries": queries, "keys": keys, "width": width, "depth": depth, "masked": masked}
    found = interpreted("agreement", tile=tile, key_tile=key_tile, budget=budget, gradients=keys > 1, **sizes)
    check(found)


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("heads", "width"), [([2, 2], 20), ([4, 2], 16), ([3, 1], 80), ([1, 1], 256)])
def test_gradients_in_half_precision_and_shared_heads(interpreted, dtype, heads, width):
    sizes = {**SMALL, "batch": 2, "heads": heads, "queries": 40, "width": width, "dtype": dtype, "masked": True}
    check(interpreted("agreement", tile=32, key_tile=32, budget=1, gradients=True, **sizes), dtype)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("masked", [False, True])
def test_on_a_gpu_all_is_as_under_the_interpreter(dtype, masked):
    """Float32 products there are three of tf32."""
    sizes = {"dtype": dtype, "batch": 2, "heads": [4, 2], "queries": 777, "keys": 1000, "width": 64, "depth": 80, "leaves": 16}
    found = spectral_triton.agreement(tile=64, budget=[3, 0, 1, 99], gradients=True, masked=masked, device="cuda", **sizes)
    assert max(found) < max(2 * CLOSE[dtype], 1e-4), found
    sizes |= {"heads": [2, 2], "dtype": "bfloat16"}
    assert spectral_triton.replayed(tile=64, budget=[2, 5], device="cuda", **sizes) == 0.0


@pytest.mark.parametrize(
    ("changes", "budget", "sentence"),
    [
        ({"heads": (3, 2)}, 1, "cannot share"),
        ({"heads": (2, 1)}, [1], "one for each of 2 heads"),
        ({"heads": (2, 1)}, [1, -1], "none below zero"),
        ({"heads": (2, 1), "dtype": torch.float64}, 1, "float64"),
        ({"heads": (2, 1), "width": 257, "dtype": torch.float16}, 1, "up to 256 columns"),
        ({"heads": (2, 1), "width": 129}, 1, "up to 128 columns"),
    ],
)
def test_operands_that_do_not_fit_are_named(changes, budget, sentence):
    sizes = {"seed": 0, "batch": 1, "queries": 5, "keys": 5, "width": 4, "depth": 4, "leaves": 2, **changes}
    with pytest.raises(ValueError, match=sentence):
        kernels.spectral_attention(*operands(**sizes), scale=1.0, tile=4, budget=budget)


def test_nothing_in_gives_nothing_or_zeros():
    for queries, keys in ((0, 5), (5, 0)):
        given = operands(0, 1, (2, 1), queries, keys, 4, 6, 2)
        output = kernels.spectral_attention(*given, scale=1.0, tile=4, budget=1)
        assert output.shape == (1, 2, queries, 6)
        assert not output.any()
