"""Tests of kernels/spectral_attention/codebook.py."""

import numpy as np
import pytest

from szilard.cost_model.errors import InputError
from szilard.kernels.spectral_attention.codebook import calibrate


def assigned(points, codebook):
    return ((points[:, None] - codebook[None]) ** 2).sum(-1).argmin(1)


def test_leaves_hold_equal_shares_and_repeat():
    points = np.random.default_rng(0).standard_normal((515, 7)) * np.arange(1, 8)
    codebook = calibrate(points, 16)
    assert codebook.shape == (16, 7)
    assert codebook.dtype == np.float32
    np.testing.assert_array_equal(codebook, calibrate(points, 16))
    np.testing.assert_allclose(codebook.mean(0), points.mean(0), atol=0.2)
    shares = np.bincount(assigned(points.astype(np.float32), codebook), minlength=16)
    assert shares.min() > 0.3 * 515 / 16


def test_leaves_follow_the_longest_direction_in_tree_order():
    random = np.random.default_rng(1)
    along = np.array([3.0, 4.0]) / 5
    points = random.uniform(-10, 10, (400, 1)) * along + 0.1 * random.standard_normal((400, 2))
    places = calibrate(points, 8) @ along
    np.testing.assert_allclose(places, np.linspace(-8.75, 8.75, 8), atol=0.8)


def test_leaves_that_meet_are_near_and_branches_stay_together():
    """A ring: halved along one axis and then the other, plain tree order jumps across it twice; turned halves go around."""
    angles = np.linspace(0, 2 * np.pi, 800, endpoint=False)
    codebook = calibrate(np.stack([2 * np.cos(angles), np.sin(angles)], 1), 8)
    steps = np.linalg.norm(np.diff(codebook, axis=0), axis=1)
    assert steps.max() < 1.6
    sides = codebook[:, 0] > 0
    assert sides[:4].all() != sides[4:].all()


@pytest.mark.parametrize("points", [np.ones((5, 3)), np.array([[1.0, 2.0, 3.0]]), np.arange(9.0).reshape(3, 3)])
def test_few_or_equal_vectors_share_centres(points):
    codebook = calibrate(points, 8)
    assert codebook.shape == (8, 3)
    assert {tuple(row) for row in codebook} <= {tuple(row) for row in points.astype(np.float32)}


@pytest.mark.parametrize(
    ("points", "leaves", "sentence"),
    [
        (np.ones((4, 2)), 6, "power of two"),
        (np.ones((4, 2)), 0, "power of two"),
        (np.ones(4), 2, "finite vectors"),
        (np.ones((0, 4)), 2, "finite vectors"),
        (np.array([[np.nan]]), 2, "finite vectors"),
    ],
)
def test_refusals(points, leaves, sentence):
    with pytest.raises(InputError, match=sentence):
        calibrate(points, leaves)
