"""How far off the rows of a fit are, and which of them together: kernels of one kind cost more or less than their work says, all alike.

Rows of one kind are no independent witnesses of what their kind costs. Taken as such, as when rows are resampled one by one, they make
intervals too narrow. The error of a row, relative to what is predicted, is therefore u(kind) + e(row) of the part of its cost that work
makes, w(time) of the part that is drawn whatever runs, and noise of the meter: a model of variance components. Few kinds tell little
about how far kinds differ, so no single answer is taken: each is weighed by its restricted likelihood (Patterson and Thompson,
Biometrika 58, 1971), with every spread as likely as any other beforehand (Gelman, Bayesian Analysis 1, 2006).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

ROUNDS = 3
"""How large a part of a row work makes depends on the coefficients, and they on the errors of rows: asked again so many times."""

SPREADS = np.geomspace(0.002, 0.3, 13)
"""By how much kinds may differ, and rows of one kind [1]."""

WANDERS = np.geomspace(0.002, 0.1, 7)
"""By how much what is drawn whatever runs may differ in the course of time [1]."""

_SOON = 8.0
"""Rows that lie this far apart, in the order in which they were measured, still share most of such a difference: fans and regulators drift
over half a minute, and a row takes five seconds or less."""

_LEAST_PART = 0.02
_LEAST_WEIGHT = 1e-4


@dataclass(frozen=True)
class Errors:
    """Lower triangular L [choices, rows, rows], each with a weight: L L' may be the covariance of relative errors of rows. Weights add up
    to 1."""

    roots: np.ndarray
    weights: np.ndarray

    @property
    def likely(self) -> np.ndarray:
        """The L with the largest weight."""
        return self.roots[int(self.weights.argmax())]


def shared_errors(
    scaled: np.ndarray,
    kinds: Sequence[str],
    steady: np.ndarray,
    noise: float,
    solve: Callable[[np.ndarray], np.ndarray],
    ridge: np.ndarray,
    towards: np.ndarray,
) -> Errors:
    """How rows may err together.

    `scaled` [rows, keys] predicts 1 in every row, in the order in which they were measured; `kinds` names what each row has in common with
    others; `steady` [keys] marks what is drawn whatever runs; `noise` is the relative sd of the meter [1]. `solve` gives the coefficients
    for an L; `ridge` and `towards` [keys] are the prior's weights and centre.
    """
    names = sorted(set(kinds))
    member = np.array([[float(kind == name) for name in names] for kind in kinds])
    together, own = member @ member.T, np.eye(len(scaled))
    place = np.arange(len(scaled)) / _SOON
    soon = np.exp(-np.abs(place[:, None] - place))
    errors = Errors(noise * own[None], np.ones(1))
    spreads = np.array(list(itertools.product(SPREADS, SPREADS, WANDERS)))
    for _ in range(ROUNDS):
        solved = solve(errors.likely)
        predicted = np.maximum(scaled @ solved, _LEAST_PART)
        rest = np.clip(scaled[:, steady] @ solved[steady] / predicted, 0.0, 1.0 - _LEAST_PART)
        parts = (np.outer(1.0 - rest, 1.0 - rest) * together, np.diag((1.0 - rest) ** 2), np.outer(rest, rest) * soon)
        # Relative to what was observed, nothing at all for every row would be an error that all rows of a kind share.
        roots = predicted[:, None] * np.linalg.cholesky(np.tensordot(spreads**2, parts, 1) + noise**2 * own)
        # Spreads lie closer where they are small: a weight stands for all up to the next one.
        logs = np.log(spreads).sum(axis=1) - _deviances(scaled, roots, ridge, towards) / 2.0
        weights = np.exp(logs - logs.max())
        kept = weights > _LEAST_WEIGHT
        errors = Errors(roots[kept], weights[kept] / weights[kept].sum())
    return errors


def _deviances(scaled: np.ndarray, roots: np.ndarray, ridge: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """-2 log of the restricted likelihood of each of `roots`."""
    known = np.linalg.solve(roots, np.column_stack([scaled, np.ones(len(scaled))]))
    rows, target = known[:, :, :-1], known[:, :, -1:]
    inner = rows.transpose(0, 2, 1) @ rows + np.diag(ridge**2)
    seen = rows.transpose(0, 2, 1) @ target + (ridge**2 * towards)[:, None]
    left = (
        (target**2).sum(axis=(1, 2)) + np.sum((ridge * towards) ** 2) - (seen * np.linalg.solve(inner, seen)).sum(axis=(1, 2))
    )
    return 2.0 * np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(axis=1) + np.linalg.slogdet(inner)[1] + left
