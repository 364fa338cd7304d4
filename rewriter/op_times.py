"""`OpTimes`: seconds of each op of a model, as a runtime's own clock saw them in several calls of the whole."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ..cost_model.timing import Timing, timing_of

MOST_EVENTS = 30_000
"""Times of single ops that one profile keeps: onnxruntime writes some 900 bytes for each."""
MOST_SECONDS = 3.0
FEWEST_RUNS, MOST_RUNS = 5, 50


@dataclass(frozen=True)
class OpTimes:
    """`samples` maps op ids to seconds, one for each call of the model, in the order of the calls [s]. `added` [s] is by how much the clock
    itself lengthens an op: it is taken off already, so that a sample of an op that takes next to nothing may be below zero. `how` says in
    a clause how they were had."""

    samples: Mapping[str, tuple[float, ...]]
    added: float
    how: str

    def timing(self, ops: Collection[str]) -> Timing:
        """Seconds of `ops` together: the median over the calls of their sum, and its interval. Raises ValueError for none of them."""
        known = [self.samples[op] for op in ops if op in self.samples]
        return timing_of([sum(each) for each in zip(*known, strict=True)])


def runs_for(seconds: float, ops: int) -> int:
    """How many calls to profile of a model of that many ops whose call takes `seconds` [s]."""
    fit = min(MOST_EVENTS // max(ops, 1), int(MOST_SECONDS / max(seconds, 1e-6)))
    return max(FEWEST_RUNS, min(MOST_RUNS, fit))
