"""Tests of kernels/spectral_attention/triton_causal.py under Triton's interpreter, against the reference, and so of its parts:
triton_causal_forward.py, triton_causal_tiles.py, triton_causal_scores.py, triton_causal_attend.py, triton_causal_backward.py,
triton_causal_gradient.py."""

import pytest
import torch

pytest.importorskip("triton")

from szilard.kernels.spectral_attention import triton_causal as kernels
from szilard.kernels.spectral_attention.causal import LAYOUT, Layout

from . import causal_triton
from .causal_attention import operands
from .triton_interpreter import Interpreter

CLOSE = {"float32": 5e-6, "float16": 2e-3, "bfloat16": 1.2e-2}
SMALL = [16, 4, 32, 16]
SIZES = {"dtype": "float32", "batch": 1, "heads": [2, 1], "length": 70, "width": 20, "depth": 16}
DEFAULT = [LAYOUT.query_tile, LAYOUT.key_tile, LAYOUT.segment, LAYOUT.sink]


@pytest.fixture(scope="module")
def interpreted():
    child = Interpreter()
    child("causal_triton:same_tiles", layout=SMALL, **SIZES)
    yield lambda function, **arguments: child(f"causal_triton:{function}", **arguments)
    child.close()


def check(found, dtype="float32"):
    assert max(found) < CLOSE[dtype], found


def test_outputs_and_gradients_are_those_of_the_reference(interpreted):
    """An odd length, a sparse head and a dense one that share their keys."""
    found = interpreted("agreement", budget=[3, None], layout=SMALL, gradients=True, **SIZES)
    assert len(found) == 4
    check(found)


def test_each_head_has_its_budget(interpreted):
    check(interpreted("agreement", budget=[0, 5, 2, 40], layout=SMALL, **{**SIZES, "heads": [4, 2], "length": 66}))


def test_half_precision_is_the_reference_rounded(interpreted):
    for dtype in ("float16", "bfloat16"):
        check(interpreted("agreement", budget=[2, 6], layout=SMALL, **{**SIZES, "dtype": dtype}), dtype)


@pytest.mark.parametrize("length", [5, 16, 17, 64])
def test_texts_of_one_tile_or_none_closed(interpreted, length):
    check(interpreted("agreement", budget=2, layout=SMALL, gradients=True, **{**SIZES, "length": length, "heads": [1, 1]}))


def test_the_default_layout(interpreted):
    """420 tokens: its first segment is closed to the last tile of queries."""
    check(interpreted("agreement", budget=4, layout=DEFAULT, **{**SIZES, "length": 420, "heads": [1, 1]}))


def test_tiles_by_content_hold_what_the_reference_puts_there(interpreted):
    for layout, length, batch in ((DEFAULT, 420, 1), ([16, 2, 32, 32], 130, 2)):
        assert interpreted("same_tiles", layout=layout, **{**SIZES, "batch": batch, "heads": [1, 1], "length": length})


def test_all_tiles_are_dense_attention_and_a_constant_comes_back(interpreted):
    check(interpreted("limits", layout=SMALL, **{**SIZES, "heads": [1, 1]}))


@pytest.mark.parametrize("position", [37, 63])
def test_no_output_depends_on_a_later_key_or_value(interpreted, position):
    same, behind = interpreted("sees_no_later", position=position, budget=2, layout=SMALL, **{**SIZES, "heads": [1, 1]})
    assert same
    assert not behind


def test_the_log_sum_exp_of_a_dense_head(interpreted):
    error, far = interpreted("logsum", layout=SMALL, **SIZES)
    check([error])
    assert far == 0


def test_little_workspace_takes_more_passes_to_the_same(interpreted):
    count, same = interpreted("passes", workspace=200, budget=2, layout=SMALL, **{**SIZES, "heads": [1, 1], "length": 50})
    assert count > 1
    assert same


def test_nothing_waits_for_the_host(interpreted):
    """Neither an operator that reads a number from a tensor nor one whose shape depends on one, forward or backward."""
    waits, count = interpreted(
        "waits", budget=2, layout=[16, 4, 16, 0], **{**SIZES, "heads": [1, 1], "length": 34, "width": 16}
    )
    assert waits == []
    assert count > 20


def test_the_registered_operator_runs_the_kernels_on_a_gpu(interpreted):
    """Once forward, once more for the gradients."""
    sizes = {**SIZES, "heads": [1, 1], "length": 34, "width": 16}
    found, calls = interpreted("registered", budget=2, layout=[16, 4, 16, 0], **sizes)
    check(found)
    assert calls == 2


def test_an_output_is_freed_with_its_last_name(interpreted):
    assert interpreted("freed", budget=2, layout=SMALL, **{**SIZES, "length": 16, "width": 16})


@pytest.mark.long
@pytest.mark.parametrize(
    ("layout", "length", "heads", "width", "depth", "budget"),
    [
        (SMALL, 130, [2, 1], 33, 48, [2, 9]), (SMALL, 67, [4, 2], 16, 80, [0, 3, 50, None]), (SMALL, 81, [1, 1], 100, 128, 4),
        ([32, 8, 64, 32], 200, [2, 2], 16, 24, [5, 0]), ([16, 1, 16, 0], 50, [1, 1], 6, 5, 3), ([64, 64, 64, 64], 300, [1, 1], 16, 16, 2),
        ([16, 16, 64, 16], 150, [3, 1], 24, 16, [2, 3, 4]), (DEFAULT, 650, [1, 1], 64, 64, 6),
    ],
)  # fmt: skip
def test_any_size_agrees_with_the_reference(interpreted, layout, length, heads, width, depth, budget):
    sizes = {**SIZES, "length": length, "heads": heads, "width": width, "depth": depth, "batch": 2 if width < 20 else 1}
    check(interpreted("agreement", budget=budget, layout=layout, gradients=length < 140, **sizes))


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("heads", "width"), [([2, 2], 20), ([3, 1], 80), ([1, 1], 256)])
def test_gradients_in_half_precision(interpreted, dtype, heads, width):
    sizes = {**SIZES, "heads": heads, "width": width, "dtype": dtype, "length": 66}
    found = interpreted("agreement", budget=3, layout=SMALL, gradients=True, **sizes)
    assert max(found) < 2 * CLOSE[dtype], found


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", CLOSE)
def test_on_a_gpu_all_is_as_under_the_interpreter(dtype):
    """Float32 products there are three of tf32."""
    sizes = {"dtype": dtype, "batch": 2, "heads": [4, 2], "length": 1500, "width": 64, "depth": 80, "device": "cuda"}
    found = causal_triton.agreement(budget=[4, 0, 12, None], layout=DEFAULT, gradients=True, **sizes)
    assert max(found) < max(3 * CLOSE[dtype], 1e-4), found
    assert causal_triton.replayed(budget=[4, 0, 12, None], layout=DEFAULT, **sizes) == 0.0


@pytest.mark.parametrize(
    ("changes", "budget", "layout", "sentence"),
    [
        ({"heads": (3, 2)}, 1, LAYOUT, "cannot attend"),
        ({}, [1], LAYOUT, "one for each of 2 heads"),
        ({}, [1, -1], LAYOUT, "none below zero"),
        ({"dtype": torch.float64}, 1, LAYOUT, "float64"),
        ({"width": 257, "dtype": torch.float16}, 1, LAYOUT, "up to 256 columns"),
        ({"width": 129}, 1, LAYOUT, "up to 128 columns"),
        ({}, 1, Layout(8, 2, 16, 8), "16 queries or more"),
        ({}, 1, Layout(48, 12, 48, 48), "powers of two"),
    ],
)
def test_operands_that_do_not_fit_are_named(changes, budget, layout, sentence):
    sizes = {"heads": (2, 1), "width": 4, "dtype": torch.float32, **changes}
    given = [x.to(sizes["dtype"]) for x in operands(0, 1, sizes["heads"], 5, sizes["width"], 4)]
    with pytest.raises(ValueError, match=sentence):
        kernels.causal_spectral_attention(*given, scale=1.0, budget=budget, layout=layout)


def test_nothing_in_gives_nothing():
    given = [x[:, :, :0] for x in operands(0, 1, (2, 1), 5, 4, 6)]
    assert kernels.causal_spectral_attention(*given, scale=1.0, budget=1).shape == (1, 2, 0, 6)
