"""The laws of kernels from timed microbenchmarks: one fit a kernel, in an order in which whatever else a row runs is already known."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

from .errors import InputError
from .fit import Estimate, Fit, fit
from .kernel_work import RUN, VIEW

OWN_SHARE = 0.3
"""A row tells something of a kernel that takes at least this share of its time, the rest being known: of less, the doubt about the others
would be most of what is left."""

LARGEST_CONDITION = 100.0
"""Coefficients of time are used together, on work of the same kind as they were fitted on, so that a poorer condition than that of
joules does no harm to a prediction; the intervals show it."""


CALL = Estimate(1e-6, 1e-7, 1e-5)
"""What to dispatch one op is believed to cost before any is timed [s]: without it, a kernel that was only timed on large operands could
be given any cost of a call, and small ops of a model any time."""


@dataclass(frozen=True)
class Row:
    """`work` ("<kernel>.<feature>" -> amount) of one timed call, and its `seconds`."""

    name: str
    work: Mapping[str, float]
    seconds: float


def kernel_of(key: str) -> str:
    """The kernel of a key "<kernel>.<feature>"."""
    return key.rpartition(".")[0]


def fit_kernels(rows: Sequence[Row], *, draws: int = 100, seed: int = 0) -> tuple[dict[str, Fit], dict[str, str]]:
    """(kernel -> fit of the seconds of its features, kernel -> why there is none).

    A kernel is fitted when all the others in some of its rows are known: the seconds that they are predicted to take are
    subtracted. The cost of a run and of a view come first, from rows of both. The order is that of the rows at hand, most first.
    """
    known: dict[str, Fit] = {}
    refused: dict[str, str] = {}
    left = {kernel_of(key) for row in rows for key in row.work}
    while left:
        kernels = {RUN, VIEW} & left or _next(rows, known.keys(), left)
        if not kernels:
            refused |= dict.fromkeys(left, "every microbenchmark of it runs other kernels too whose time is not known")
            break
        try:
            found = _fit(rows, kernels, known, draws, seed)
            known |= dict.fromkeys(kernels, found)
        except InputError as fault:
            refused |= dict.fromkeys(kernels, str(fault))
        left -= kernels
    return known, refused


def _next(rows: Sequence[Row], known: Set[str], left: set[str]) -> set[str]:
    """The kernel with the most rows in which all others are known."""
    alone = Counter(kernel for row in rows for kernel in _only({kernel_of(key) for key in row.work} - known) if kernel in left)
    return {max(sorted(alone), key=alone.__getitem__)} if alone else set()


def _only(kernels: set[str]) -> set[str]:
    """`kernels` if there is just one."""
    return kernels if len(kernels) == 1 else set()


def _fit(rows: Sequence[Row], kernels: set[str], known: Mapping[str, Fit], draws: int, seed: int) -> Fit:
    design, observed = [], []
    for row in rows:
        inside = {kernel_of(key) for key in row.work}
        if not inside & kernels or inside - kernels - known.keys():
            continue
        others = sum(known[kernel_of(key)].predict({key: amount}) for key, amount in _others(row, kernels, known))
        if row.seconds - others >= OWN_SHARE * row.seconds:
            design.append({key: amount for key, amount in row.work.items() if kernel_of(key) in kernels})
            observed.append(row.seconds - others)
    if not design:
        raise InputError(f"{' and '.join(sorted(kernels))}: in every microbenchmark other kernels take most of the time.")
    calls = {f"{kernel}.call": CALL for kernel in kernels - {RUN}}
    found = fit(design, observed, calls, draws=draws, seed=seed, largest_condition=LARGEST_CONDITION)
    return _centred(found, [seconds / found.predict(work) for work, seconds in zip(design, observed, strict=True)])


def _centred(found: Fit, ratios: Sequence[float]) -> Fit:
    """The fit with its median row predicted right: least squares of relative errors lean to the rows that came out low."""
    factor = statistics.median(ratios)
    scaled = {key: Estimate(e.value * factor, e.low * factor, e.high * factor) for key, e in found.coefficients.items()}
    return replace(found, coefficients=scaled, residual=statistics.median(abs(factor / ratio - 1) for ratio in ratios))


def _others(row: Row, kernels: set[str], known: Mapping[str, Fit]) -> list[tuple[str, float]]:
    """The keys of a row that do not belong to `kernels` and were fitted, so that their seconds can be predicted."""
    pairs = ((key, amount) for key, amount in row.work.items() if kernel_of(key) not in kernels)
    return [(key, amount) for key, amount in pairs if key in known[kernel_of(key)].coefficients]
