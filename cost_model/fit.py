"""`fit`: coefficients that are never negative, from rows of work and what each row cost; with intervals, or a refusal.

The same fit serves joules (keys of a device's coefficients, "static" in seconds) and the seconds of one class of kernels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import log

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import nnls
from scipy.sparse.csgraph import connected_components
from scipy.stats import t as student

from .device import Z90
from .errors import InputError
from .shared_errors import Errors, shared_errors

CONDITION = 30.0
"""Where Belsley, Kuh and Welsch (Regression Diagnostics, 1980) see strong collinearity. Proportional columns whose seconds are read with
2 % noise have a condition near 100, so the limit must lie below that."""

NOISE = 0.01
"""The least relative noise [1] a row is believed to have: a measurement stops at an interval of this half-width."""

_REDRAWS = 20
_NARROWED = 0.9
_SWEEPS = {
    "flop": "matrix products of growing size, which do more flops for each byte",
    "byte": "copies and reductions of several sizes, inside and outside the cache",
    "link": "transfers of several sizes",
    "launch": "many small kernels",
    "static": "the same work at several speeds, or an idle run",
    "leakage": "runs on a cold and on a warm device",
}


@dataclass(frozen=True)
class Estimate:
    """A number believed with 90 % to lie between `low` and `high`, all in the unit of its key."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Fit:
    """What `fit` found. `condition` is that of the design with columns of unit length, None where nothing was solved for jointly,
    `residual` the median |relative error| of the `rows` it was fitted on; `at_prior` names the keys on which the rows said next to nothing:
    they are the prior's, unchanged."""

    coefficients: Mapping[str, Estimate]
    condition: float | None
    residual: float
    rows: int
    at_prior: tuple[str, ...] = ()

    def predict(self, work: Mapping[str, float]) -> float:
        """The sum of coefficient x amount. Raises ValueError for work under a key that was not fitted."""
        unknown = sorted(key for key, amount in work.items() if amount and key not in self.coefficients)
        if unknown:
            raise ValueError(f"nothing was fitted for {', '.join(unknown)}")
        return sum(self.coefficients[key].value * amount for key, amount in work.items() if amount)


def fit(
    design: Sequence[Mapping[str, float]],
    observed: Sequence[float],
    prior: Mapping[str, Estimate] | None = None,
    *,
    draws: int = 200,
    seed: int = 0,
    largest_condition: float = CONDITION,
    noise: float = NOISE,
    kinds: Sequence[str] | None = None,
    steady: Collection[str] = (),
    signed: Collection[str] = (),
) -> Fit:
    """Coefficients c >= 0 that minimise the sum of (predicted / observed - 1)^2 over the rows: scipy's NNLS on relative errors.

    `design` maps keys to amounts, `observed` is what each row cost, above zero. No row is ever dropped. A `prior` adds
    (noise / width)^2 (c - prior)^2, where the noise is that of the rows, at least `noise`, and the width that of the prior's interval
    on a log scale times its value: both count in standard deviations, so a factor of two of doubt is outvoted by a few good rows.

    `kinds` names for each row what it shares with others: rows of one kind are then believed to err alike, and weigh less together
    (`shared_errors`); keys in `steady` cost what they cost whatever the kind. Amounts of keys in `signed` may be negative.

    An interval spans the 5 % and 95 % quantiles over `draws` resamples (of rows; of errors as rows with `kinds` make them; each with a
    prior drawn from its own interval) and the interval of the linear model with Student's t, the wider one where rows, or kinds, are few.
    With noise s the coefficients come out low by about 2 s^2 of their size, as dividing by what was observed favours low rows: next to
    nothing at 2 %.

    Raises InputError that names the keys which cannot be told apart (with or without a prior: the prior would decide, and the result would
    pass for measured), or a key without any amount and without a prior; ValueError for numbers that are not finite or have the wrong sign.
    """
    believed = dict(prior or {})
    keys, matrix, target = _matrix(design, observed, believed, signed)
    relative = matrix / target[:, None]
    length = np.linalg.norm(relative, axis=0)
    scaled = relative / length
    condition = _condition(scaled)
    if condition > largest_condition:
        raise InputError(_collinear(scaled, keys, condition, largest_condition))
    count, ones = len(target), np.ones(len(target))
    free = max(1, count - len(keys))
    centre = np.array([believed[key].value if key in believed else 0.0 for key in keys]) * length
    width = np.array([_width(believed.get(key)) for key in keys]) * length
    # A prior without any doubt holds its coefficient: a millionth of a row's cost stands for none.
    pull = 1.0 / np.maximum(width, 1e-6)

    def solve(root: np.ndarray, weights: np.ndarray = ones, aim: np.ndarray = ones, towards: np.ndarray = centre) -> np.ndarray:
        """The coefficients for rows whose errors have the covariance root root'."""
        rows = solve_triangular(root, np.column_stack([scaled, aim]), lower=True) * weights[:, None]
        return nnls(np.vstack([rows[:, :-1], np.diag(pull)]), np.concatenate([rows[:, -1], pull * towards]))[0]

    if kinds is None:
        errors = Errors(max(noise, float(nnls(scaled, ones)[1]) / np.sqrt(free)) * np.eye(count)[None], np.ones(1))
    else:
        errors = shared_errors(scaled, kinds, np.isin(keys, list(steady)), noise, solve, pull, centre)
    best = solve(errors.likely)
    known = solve_triangular(errors.likely, scaled, lower=True)
    deviation = np.sqrt(np.diag(np.linalg.inv(known.T @ known + np.diag(pull**2))))
    half = deviation * student.ppf(0.95, free if kinds is None else max(1, min(free, len(set(kinds)) - 1)))
    spread = np.divide(width, centre, out=np.zeros(len(keys)), where=centre > 0)
    rng = np.random.default_rng(seed)
    drawn = [best]
    for _ in range(draws):
        towards = centre * np.exp(spread * rng.standard_normal(len(keys)))
        if kinds is None:
            drawn.append(solve(errors.likely, weights=_resample(scaled, rng, largest_condition), towards=towards))
        else:
            root = errors.roots[rng.choice(len(errors.roots), p=errors.weights)]
            drawn.append(solve(root, aim=ones + root @ rng.standard_normal(count), towards=towards))
    # Residuals of a fit are smaller than the noise by this factor, and so are the spreads of resampled rows.
    shrunk = np.sqrt(count / free) if kinds is None else 1.0
    low, high = best + shrunk * (np.quantile(drawn, (0.05, 0.95), axis=0) - best)
    low, high = np.maximum(0.0, np.minimum(low, best - half)), np.maximum(high, best + half)
    found = {
        key: Estimate(float(best[i] / length[i]), float(low[i] / length[i]), float(high[i] / length[i]))
        for i, key in enumerate(keys)
    }
    # With as much doubt after the rows as before them, the number is still the prior's and must not pass for a fitted one.
    untold = [key for i, key in enumerate(keys) if key in believed and deviation[i] > _NARROWED * width[i]]
    kept = tuple(sorted({*untold, *(believed.keys() - set(keys))}))
    residual = float(np.median(np.abs(scaled @ best - 1.0)))
    return Fit({**found, **{key: believed[key] for key in kept}}, condition, residual, count, kept)


def _matrix(
    design: Sequence[Mapping[str, float]], observed: Sequence[float], prior: Mapping[str, Estimate], signed: Collection[str]
) -> tuple[list[str], np.ndarray, np.ndarray]:
    if len(design) != len(observed) or not design:
        raise ValueError(f"a fit needs equally many rows and observations, got {len(design)} and {len(observed)}")
    keys = sorted({key for row in design for key in row})
    matrix = np.array([[float(row.get(key, 0.0)) for key in keys] for row in design]).reshape(len(design), len(keys))
    target = np.array(observed, dtype=float)
    positive = (matrix >= 0).all(axis=0) | np.isin(keys, list(signed))
    if not (np.isfinite(matrix).all() and positive.all() and np.isfinite(target).all() and (target > 0).all()):
        raise ValueError("amounts must be finite and not negative, observations finite and above zero")
    used = [bool(column.any()) for column in matrix.T]
    missing = [key for key, present in zip(keys, used, strict=True) if not present and key not in prior]
    if missing or not any(used):
        raise InputError(
            f"No row does any work of {', '.join(missing) or 'any kind'}, so no cost of it can be fitted; add runs that do."
        )
    return [key for key, present in zip(keys, used, strict=True) if present], matrix[:, used], target


def _width(prior: Estimate | None) -> float:
    """The standard deviation that a prior's interval stands for: on a log scale where its ends are above zero."""
    if prior is None:
        return float("inf")
    if prior.low > 0:
        return prior.value * log(prior.high / prior.low) / (2 * Z90)
    return (prior.high - prior.low) / (2 * Z90)


def _condition(scaled: np.ndarray) -> float:
    if len(scaled) < scaled.shape[1]:
        return float("inf")
    return float(np.linalg.cond(scaled))


def _resample(scaled: np.ndarray, rng: np.random.Generator, largest_condition: float) -> np.ndarray:
    """The square roots of how often each row was drawn. A draw that lost what tells two keys apart is drawn again, a few times."""
    count = len(scaled)
    for _ in range(_REDRAWS):
        weights = np.sqrt(np.bincount(rng.integers(0, count, count), minlength=count).astype(float))
        if np.linalg.cond(scaled * weights[:, None]) <= largest_condition:
            break
    return weights


def _collinear(scaled: np.ndarray, keys: Sequence[str], condition: float, largest: float) -> str:
    """The sentence that names each group of keys which the rows cannot tell apart, and what would.

    A key belongs to a group when over half of the variance of its coefficient comes from directions that the rows hardly see (Belsley,
    Kuh and Welsch 1980); two keys are in the same one when such a direction mixes them.
    """
    squared, columns = np.linalg.eigh(scaled.T @ scaled)
    unseen, directions = squared < squared[-1] / largest**2, columns.T
    variance = directions**2 / np.maximum(squared, squared[-1] * 1e-15)[:, None]
    involved = variance[unseen].sum(axis=0) > 0.5 * variance.sum(axis=0)
    mixing = np.abs(directions[unseen].T @ directions[unseen]) > 0.05
    _, labels = connected_components(mixing & involved[:, None] & involved[None, :], directed=False)
    members = [[keys[int(i)] for i in np.flatnonzero((labels == label) & involved)] for label in range(labels.max() + 1)]
    groups = [group for group in members if group]
    named = list(dict.fromkeys(key.partition(".")[0] for group in groups for key in group))
    advice = [_SWEEPS[kind] for kind in named if kind in _SWEEPS] or ["runs in which one of them changes and the others do not"]
    apart = "; ".join(" and ".join(group) for group in groups)
    return (
        f"{len(scaled)} rows cannot tell the costs of these apart: {apart} (condition {condition:.3g}, at most {largest:.3g}); "
        f"add {', and '.join(advice)}."
    )
