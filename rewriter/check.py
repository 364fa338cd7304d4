"""The gates of a rewrite: outputs after every pass, and the error or the metric on held-out data at the end, with roll-back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ..cost_model.errors import BudgetError
from ..cost_model.plan import Budget, Choice, Step
from ..cost_model.program import Program
from .apply import Applied
from .backend import EXACT_ACTIONS, Arrays, Backend, Runner
from .calibration import Calibration, relative_error
from .solve import Solution

# Relative squared error up to which a rewrite counts as exact, by the narrowest float among the outputs: sums in another order.
ROUNDING = {"float64": 1e-20, "float32": 1e-9, "float16": 1e-4, "bfloat16": 1e-3}


@dataclass(eq=False)
class Gate:
    """Compares a graph with the original program: `sample_error` on the sample inputs, `held_out` on held-back calibration data."""

    program: Program
    backend: Backend
    budget: Budget
    calibration: Calibration | None
    metric: Callable[[Runner], float] | None

    @cached_property
    def _held_out_samples(self) -> Sequence[Arrays]:
        return self.calibration.held_out if self.calibration else (self.program.sample,)

    @cached_property
    def _references(self) -> tuple[list[dict], list[dict], float | None]:
        with self.backend.runner(self.program.graph) as run:
            metric = self.metric(run) if self.metric else None
            return [run(self._held_out_samples[0])], [run(sample) for sample in self._held_out_samples], metric

    @cached_property
    def rounding(self) -> float:
        """The relative squared error that dtype rounding alone may cause."""
        found = {str(array.dtype) for outputs in self._references[0] for array in outputs.values()}
        return max((limit for dtype, limit in ROUNDING.items() if dtype in found), default=0.0)

    def tolerance(self, choices: Sequence[Choice]) -> float:
        """How far one pass may move the outputs on the sample: rounding for exact choices, else four times the errors predicted
        (which are of other samples) or the whole budget, whichever is more; no limit where a metric is the budget."""
        if all(choice.action in EXACT_ACTIONS for choice in choices):
            return self.rounding
        if self.metric is not None:
            return float("inf")
        return max(self.budget.error, 4 * sum(choice.after.error for choice in choices))

    def sample_error(self, graph: Any) -> float:
        """Relative squared error of the outputs on the first held-out sample (the sample inputs where there is no calibration)."""
        with self.backend.runner(graph) as run:
            return relative_error([run(self._held_out_samples[0])], self._references[0])

    def held_out(self, graph: Any) -> tuple[float, tuple[float, float] | None]:
        """(relative squared error, (metric before, metric after) or None) on held-out data."""
        with self.backend.runner(graph) as run:
            error = relative_error([run(sample) for sample in self._held_out_samples], self._references[1])
            metric = self.metric(run) if self.metric else None
        before = self._references[2]
        return error, None if metric is None or before is None else (before, metric)

    def excess(self, error: float, metric: tuple[float, float] | None) -> float:
        """What was spent as a multiple of the budget; at most 1 passes."""
        spent = metric[0] - metric[1] if metric else error
        if spent <= (0.0 if metric else self.rounding):
            return 0.0
        return spent / self.budget.error if self.budget.error > 0 else float("inf")


@dataclass(frozen=True, eq=False)
class Held:
    """A rewrite that passed the final gate, after the choices named in `rolled_back` were taken back."""

    graph: Any
    choices: tuple[Choice, ...]
    steps: tuple[Step, ...]
    printed: tuple[str, ...]
    rolled_back: tuple[str, ...]
    error: float
    metric: tuple[float, float] | None


def hold_to_budget(
    solution: Solution, rewrite: Callable[[Solution], Applied], gate: Gate, progress: Callable[[str], None] = lambda _: None
) -> Held:
    """Apply and check; while the held-out error (or the metric) is over budget, take back the choices with the worst error per joule
    saved and try again. With nothing left the original passes by definition. BudgetError where only locked choices are left to take back.
    """
    rolled_back: list[str] = []
    while True:
        applied = rewrite(solution)
        rolled_back += applied.rolled_back
        solution = replace(solution, choices=applied.choices)
        if all(choice.action == "leave" for choice in solution.choices):
            return Held(applied.graph, solution.choices, applied.steps, applied.printed, tuple(rolled_back), 0.0, None)
        progress("checking on held-out data")
        error, metric = gate.held_out(applied.graph)
        excess = gate.excess(error, metric)
        if excess <= 1:
            return Held(applied.graph, solution.choices, applied.steps, applied.printed, tuple(rolled_back), error, metric)
        solution, taken_back = _take_back(solution, excess, error)
        rolled_back += taken_back


def _take_back(solution: Solution, excess: float, measured: float) -> tuple[Solution, list[str]]:
    """Enough choices, worst error per joule saved first, that the predicted error falls by the factor that was measured too much."""
    changed = [c for c in solution.choices if c.action != "leave"]
    inexact = [c for c in changed if c.after.error > 0] or changed
    free = sorted((c for c in inexact if not c.locked), key=_error_per_joule, reverse=True)
    if not free:
        raise BudgetError(
            f"The plan's locked choices give an error of {measured:.3g}, {excess:.2g} times the budget; "
            "unlock or change one, or raise --budget."
        )
    predicted = sum(c.after.error for c in inexact)
    remaining, back = predicted, []
    for choice in free:
        back.append(choice)
        remaining -= choice.after.error
        if remaining <= predicted / excess:
            break
    names = {c.site for c in back}
    kept = tuple(replace(c, action="leave") if c.site in names else c for c in solution.choices)
    sentence = (
        "{} at {} was taken back: held-out error was {:.2g} times the budget, and it had the worst error per joule saved."
    )
    return replace(solution, choices=kept), [sentence.format(c.action, c.site, excess) for c in back]


def _error_per_joule(choice: Choice) -> tuple[float, str]:
    return choice.after.error / max(choice.before.joules - choice.after.joules, 1e-30), choice.site
