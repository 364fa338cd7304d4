"""The laws of kernels from timed microbenchmarks: one fit a kernel, in an order in which whatever else a row runs is already known."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence, Set
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

LEAST = 1e-6
"""A coefficient that came out as nothing is kept as this share of its upper end: a price remembers seconds by coefficient, and of none at
all it could not tell how much work the doubt is about."""

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
            found = _doubted(rows, kernels, known, _fit(rows, kernels, known, draws, seed))
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
        others = _others(row, kernels, known)
        if others is not None and row.seconds - others >= OWN_SHARE * row.seconds:
            design.append({key: amount for key, amount in row.work.items() if kernel_of(key) in kernels})
            observed.append(row.seconds - others)
    if not design:
        raise InputError(
            f"{' and '.join(sorted(kernels))}: in every microbenchmark other kernels take most of the time, or a time not known."
        )
    calls = {f"{kernel}.call": CALL for kernel in kernels - {RUN}}
    found = fit(design, observed, calls, draws=draws, seed=seed, largest_condition=LARGEST_CONDITION)
    return _centred(found, design, observed)


def _doubted(rows: Sequence[Row], kernels: set[str], known: Mapping[str, Fit], found: Fit) -> Fit:
    """`found` with intervals that hold the doubt about the other kernels of its rows as well: each of their coefficients is put where its
    interval ends, and what that changes adds to the interval as a square."""
    beside = {kernel_of(key) for row in rows if kernels & {kernel_of(k) for k in row.work} for key in row.work} - kernels
    squares = dict.fromkeys(found.coefficients, 0.0)
    for other in sorted(beside & known.keys()):
        for key, estimate in known[other].coefficients.items():
            if kernel_of(key) == other:
                moved = replace(estimate, value=estimate.high)
                apart = replace(known[other], coefficients={**known[other].coefficients, key: moved})
                try:
                    shifted = _fit(rows, kernels, {**known, other: apart}, 0, 0).coefficients
                except InputError:
                    continue
                for mine in squares.keys() & shifted.keys():
                    squares[mine] += (shifted[mine].value - found.coefficients[mine].value) ** 2
    wider = {
        key: Estimate(
            e.value,
            max(0.0, e.value - ((e.value - e.low) ** 2 + squares[key]) ** 0.5),
            e.value + ((e.high - e.value) ** 2 + squares[key]) ** 0.5,
        )
        if key not in found.at_prior
        else e
        for key, e in found.coefficients.items()
    }
    return replace(found, coefficients=wider)


def _others(row: Row, kernels: set[str], known: Mapping[str, Fit]) -> float | None:
    """The seconds of a row that others than `kernels` take; None where some of their work was not fitted: how long the rest took is not
    known then."""
    theirs = {key: amount for key, amount in row.work.items() if amount and kernel_of(key) not in kernels}
    if any(key not in known[kernel_of(key)].coefficients for key in theirs):
        return None
    return sum(known[kernel_of(key)].predict({key: amount}) for key, amount in theirs.items())


def _centred(found: Fit, design: Sequence[Mapping[str, float]], observed: Sequence[float]) -> Fit:
    """The fit with its median row predicted right, by what was fitted alone: least squares of relative errors lean to the rows that came
    out low, and a prior does not."""
    prior = [_predicted(found, row, found.at_prior) for row in design]
    fitted = [found.predict(row) - kept for row, kept in zip(design, prior, strict=True)]
    rows = [(seconds, kept, own) for seconds, kept, own in zip(observed, prior, fitted, strict=True) if own > 0]
    factor = statistics.median((seconds - kept) / own for seconds, kept, own in rows) if rows else 1.0
    if factor <= 0:
        return found
    scaled = {key: e if key in found.at_prior else _scaled(e, factor) for key, e in found.coefficients.items()}
    centred = replace(found, coefficients=scaled)
    errors = [abs(centred.predict(row) / seconds - 1) for row, seconds in zip(design, observed, strict=True)]
    return replace(centred, residual=statistics.median(errors))


def _predicted(found: Fit, row: Mapping[str, float], keys: Collection[str]) -> float:
    return found.predict({key: amount for key, amount in row.items() if key in keys})


def _scaled(estimate: Estimate, factor: float) -> Estimate:
    high = estimate.high * factor
    return Estimate(max(estimate.value * factor, LEAST * high), estimate.low * factor, high)
