"""Crops of photographs: of the right shape, different, and never the same photograph on both sides."""

import numpy as np
import pytest

from szilard.models import photographs


def test_nothing_is_calibrated_on_what_is_compared():
    assert not set(photographs.CALIBRATION) & set(photographs.HELD_OUT)


def test_crops_are_squares_of_different_places():
    pytest.importorskip("PIL")
    try:
        found = photographs.crops(4, ("coffee.png",))
    except ModuleNotFoundError as fault:
        pytest.skip(str(fault))
    assert found.shape == (4, 3, 224, 224)
    assert found.dtype == np.float32
    assert -1 <= found.min() < -0.5 < 0.5 < found.max() <= 1.01
    assert len(np.unique(found.mean(axis=(1, 2, 3)))) == 4
    np.testing.assert_array_equal(found, photographs.crops(4, ("coffee.png",)))
