"""Tests of kernels/linear_int4/packing.py and of the weights that linear_int4 and linear_fp8 hold (gpu_formats.py, block_scales.py)."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from szilard.kernels.linear_fp8.reference import LARGEST, rounded_rows
from szilard.kernels.linear_int4.packing import SPAN, folded, pack, packed_rows, unpack
from szilard.kernels.linear_int4.reference import weights_of
from szilard.kernels.quantized_linear.gpu_formats import INT4_GROUP, gpu_tensors, gpu_weight

SIZES = st.tuples(st.integers(1, 200), st.integers(1, 9))
CODES = SIZES.flatmap(lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 15)))


@given(CODES)
def test_what_is_packed_comes_back(codes):
    packed = pack(torch.from_numpy(codes))
    assert packed.shape == (packed_rows(len(codes)), codes.shape[1])
    assert packed.dtype == torch.uint8
    assert np.array_equal(unpack(packed, len(codes)).numpy(), codes)


@given(CODES, st.integers(0, 199))
def test_rows_of_a_span_lie_in_low_and_high_nibbles(codes, at):
    """The layout itself, as kernels read it."""
    row = at % len(codes)
    span, within = divmod(row, SPAN)
    held = pack(torch.from_numpy(codes)).numpy()[span * 32 + within % 32]
    assert np.array_equal(held >> 4 if within >= 32 else held & 15, codes[row])


def test_codes_of_more_than_four_bits_are_refused():
    for codes in (torch.tensor([[16]]), torch.tensor([[-1]]), torch.zeros(3)):
        with pytest.raises(ValueError, match=r"lie in 0\.\.15"):
            pack(codes)


@given(CODES, st.sampled_from([32, 64, 128]), st.randoms(use_true_random=False))
def test_the_folded_zero_gives_the_weights_of_codes_less_zero_points(codes, group, random):
    groups, columns = -(-len(codes) // group), codes.shape[1]
    scale = torch.tensor([[random.uniform(0.01, 1.0) for _ in range(columns)] for _ in range(groups)])
    zero = torch.tensor([[float(random.randint(0, 15)) for _ in range(columns)] for _ in range(groups)])
    found = weights_of(pack(torch.from_numpy(codes)), scale, folded(scale, zero), len(codes), group)
    spread = [each.repeat_interleave(group, 0)[: len(codes)] for each in (scale, zero)]
    assert torch.allclose(found, (torch.from_numpy(codes).float() - spread[1]) * spread[0], atol=1e-5)


@given(SIZES.flatmap(lambda shape: arrays(np.float32, shape, elements=st.floats(-8, 8, width=32))))
def test_four_bits_are_within_half_a_step_and_fp8_within_a_sixteenth(weight):
    features, columns = weight.shape
    tensors = gpu_tensors("int4_group_weight", weight, None)
    steps = np.repeat(np.abs(tensors["weight_scale"].astype(np.float32)), INT4_GROUP, axis=0)[:features]
    # Without zero points the last code is 7 steps away, and values may lie 8 away.
    beyond = 0.0 if "weight_shift" in tensors else np.maximum(np.abs(weight) - 7.5 * steps, 0)
    four = gpu_weight("int4_group_weight", tensors, features)
    # Scales and shifts in fp16 add some hundredths of a step.
    assert (np.abs(four - weight) <= 0.52 * steps + beyond + 1e-6).all()
    tensors = gpu_tensors("fp8_column_weight", weight, None)
    assert tensors["weight"].shape == (columns, features)
    eight = gpu_weight("fp8_column_weight", tensors, features)
    # A column whose scale is below the least normal number counts as zeros.
    least = LARGEST * np.finfo(np.float32).tiny
    assert (np.abs(eight - weight) <= np.abs(weight) / 16 + np.abs(weight).max(axis=0) / LARGEST * 2**-9 + least).all()


def test_zero_points_are_taken_where_they_pay():
    draw = np.random.default_rng(0)
    around, away = draw.standard_normal((128, 4)).astype(np.float32), draw.random((128, 4), dtype=np.float32)
    assert "weight_shift" not in gpu_tensors("int4_group_weight", np.sign(around) * 3 - (around > 9), None)
    assert "weight_shift" in gpu_tensors("int4_group_weight", away, None)


def test_rows_keep_their_size_and_zeros_stay():
    x = torch.tensor([[1.0, -448.0, 3.0], [0.0, 0.0, 0.0], [1e-30, 2e-30, -4e-30]])
    codes, scale = rounded_rows(x)
    assert torch.allclose(codes.float() * scale, x, rtol=2**-4, atol=0)
    assert float(codes.float().abs().max()) == LARGEST
