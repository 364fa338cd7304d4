"""Tests of kernels/quantized_linear/migration.py."""

import numpy as np
import pytest

from szilard.kernels.quantized_linear.migration import CEILING, channel_multipliers, input_range


@pytest.mark.parametrize(
    ("low", "high", "zero"), [(-1.0, 3.0, 64), (0.5, 4.0, 0), (-3.0, -1.0, 255), (-0.17, 5.0, 8), (0.0, 0.0, 0)]
)
def test_the_range_holds_zero_and_both_ends(low, high, zero):
    scale, found = input_range(np.linspace(low, high, 7, dtype=np.float32))
    assert found == zero
    assert (0 - found) * scale <= min(low, 0) + scale
    assert (255 - found) * scale >= max(high, 0) - scale


def test_denormal_inputs_get_scale_one():
    assert input_range(np.full((2, 3), 1e-42, np.float32)) == (1.0, 0)


def test_multipliers_shrink_outliers_only():
    generator = np.random.default_rng(0)
    weight = generator.normal(size=(120, 31)).astype(np.float32)
    x = generator.normal(size=(3000, 120)).astype(np.float32)
    assert channel_multipliers(weight, x) is None
    x[:, [3, 77]] *= 15
    multipliers = channel_multipliers(weight, x)
    assert multipliers is not None
    assert multipliers.min() == np.float32(1 / CEILING)
    assert set(np.argsort(multipliers)[:2].tolist()) == {3, 77}
    assert np.sum(multipliers < 1) <= 16


def test_zero_inputs_and_few_channels_are_left():
    weight = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    assert channel_multipliers(weight, np.zeros((4, 20), np.float32)) is None
    assert channel_multipliers(weight[:5], np.array([[1, 1, 1, 1, 90]], np.float32)) is None
