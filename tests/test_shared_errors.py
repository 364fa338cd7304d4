"""How far kinds and rows differ is told by rows, as far as they can tell it."""

import numpy as np
import pytest

from szilard.cost_model.shared_errors import shared_errors

ROWS, KEYS = 60, 4


def found(kind_sd: float, row_sd: float, seed: int, per_kind: int = 4):
    """What `shared_errors` makes of rows that differ by so much: the weighted covariance, and the kinds of rows."""
    rng = np.random.default_rng(seed)
    kinds = [f"{index // per_kind}" for index in range(ROWS)]
    work = rng.uniform(0.1, 1.0, (ROWS, KEYS))
    shared = np.repeat(kind_sd * rng.standard_normal(ROWS // per_kind), per_kind)
    observed = work.sum(axis=1) * (1 + shared + row_sd * rng.standard_normal(ROWS))
    scaled = work / observed[:, None]

    def solve(root):
        left = np.linalg.solve(root, np.column_stack([scaled, np.ones(ROWS)]))
        return np.linalg.lstsq(left[:, :-1], left[:, -1], rcond=None)[0]

    nothing = np.zeros(KEYS)
    errors = shared_errors(scaled, kinds, np.zeros(KEYS, bool), 0.002, solve, nothing, nothing)
    assert errors.weights.sum() == pytest.approx(1.0)
    assert errors.likely.shape == (ROWS, ROWS)
    return sum(weight * root @ root.T for weight, root in zip(errors.weights, errors.roots, strict=True))


@pytest.mark.parametrize(("kind_sd", "row_sd"), [(0.05, 0.01), (0.0, 0.03), (0.03, 0.03)])
def test_spreads_come_back(kind_sd, row_sd):
    shared, own = [], []
    for seed in range(3):
        covariance = found(kind_sd, row_sd, seed)
        shared.append(covariance[0, 1] ** 0.5)
        own.append((covariance[0, 0] - covariance[0, 1]) ** 0.5)
        assert covariance[0, ROWS - 1] == pytest.approx(0.0, abs=1e-6)
    assert np.median(shared) == pytest.approx(kind_sd, rel=0.4, abs=0.012)
    assert np.median(own) == pytest.approx(row_sd, rel=0.3)


def test_few_kinds_leave_more_doubt_than_many():
    many, few = (np.mean([found(0.03, 0.01, seed, per_kind)[0, 1] for seed in range(3)]) for per_kind in (3, 20))
    assert few > many


def test_what_is_drawn_whatever_runs_errs_with_its_neighbours_in_time():
    scaled = np.column_stack([np.ones(ROWS) / (1 + 0.03 * np.sin(np.arange(ROWS) / 8))])
    errors = shared_errors(
        scaled,
        [str(index) for index in range(ROWS)],
        np.array([True]),
        0.002,
        lambda root: np.ones(1),
        np.zeros(1),
        np.zeros(1),
    )
    covariance = errors.likely @ errors.likely.T
    assert covariance[0, 1] > 0.8 * covariance[0, 0] > 10 * covariance[0, ROWS - 1]
