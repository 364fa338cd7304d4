"""Hold a plan to its budget: apply, check on held-out data, and while it is over, decide again under a tighter limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..cost_model.errors import BudgetError
from ..cost_model.plan import Choice, Step
from .apply import Applied
from .check import Gate
from .edges import predicted_error
from .solve import Solution

# The predicted error falls at least by this factor from one attempt to the next, however little the budget was missed by.
TIGHTER = 1.1
Refused = Mapping[tuple[str, str, str], str]


@dataclass(frozen=True, eq=False)
class Held:
    """A rewrite that passed the final gate, after the changes that the sentences in `rolled_back` name. `gap` is that of the last
    solve, under the `limit` on the predicted error, None for that of the budget. `undone`: (kind, group, action) that no pass could make
    there -> why."""

    graph: Any
    choices: tuple[Choice, ...]
    steps: tuple[Step, ...]
    printed: tuple[str, ...]
    rolled_back: tuple[str, ...]
    error: float
    metric: tuple[float, float] | None
    gap: float = 0.0
    limit: float | None = None
    undone: Refused = field(default_factory=dict)


def hold_to_budget(
    solution: Solution,
    rewrite: Callable[[Solution], Applied],
    decide: Callable[[float, Refused], Solution],
    gate: Gate,
    progress: Callable[[str], None] = lambda _: None,
    predicted: Callable[[Sequence[Choice]], float] = predicted_error,
) -> Held:
    """1. Apply and check. 2. Over budget: `decide` again, without what no pass could make and under a limit on the `predicted` error
    that is smaller by the measured excess. 3. Where that changes nothing, the choice with the worst error per joule saved goes back to
    "leave". With nothing left the original passes by definition. Raises BudgetError where only locked choices are left.
    """
    rolled_back: list[str] = []
    left: dict[tuple[str, str], str] = {}
    limit: float | None = None
    undone: dict[tuple[str, str, str], str] = {}
    while True:
        applied = rewrite(solution)
        rolled_back += applied.rolled_back
        undone |= {
            (*_place(was), was.action): now.reason.removeprefix("Left: ")
            for now, was in zip(applied.choices, solution.choices, strict=True)
            if now.action != was.action
        }
        solution = replace(solution, choices=applied.choices)
        error, metric = 0.0, None if gate.metric_before is None else (gate.metric_before, gate.metric_before)
        if any(choice.action != "leave" for choice in solution.choices):
            progress("checking the whole")
            error, metric = gate.held_out(applied.graph)
        excess = gate.excess(error, metric, solution.choices)
        if excess <= 1:
            rolled = tuple(rolled_back)
            return Held(
                applied.graph,
                solution.choices,
                applied.steps,
                applied.printed,
                rolled,
                error,
                metric,
                solution.gap,
                limit,
                undone,
            )
        before = solution
        limit = predicted(before.choices) / max(excess, TIGHTER)
        solution = _without(decide(limit, undone), left) if limit > 0 else before
        if [c.action for c in solution.choices] == [c.action for c in before.choices]:
            worst = _worst(before, excess, error)
            left[_place(worst)] = f"Left: with {worst.action} here what was spent was {excess:.2g} times the budget."
            solution = _without(before, left)
        rolled_back += [
            f"{was.action} at {was.site} on {was.runtime} was taken back to {now.action}: what was spent was {excess:.2g} times the budget."
            for now, was in zip(solution.choices, before.choices, strict=True)
            if now.action != was.action
        ]


def _place(choice: Choice) -> tuple[str, str]:
    return choice.kind, choice.site


def without_undone(choice: Choice, undone: Refused) -> Choice:
    """The choice with the options refused that no pass could make there."""
    options = tuple(replace(o, reason=undone.get((*_place(choice), o.action), o.reason)) for o in choice.options)
    return replace(choice, options=options)


def _without(solution: Solution, left: Mapping[tuple[str, str], str]) -> Solution:
    """The solution with what went back to "leave" before left so, and why as the reason."""
    kept = (
        replace(c, action="leave", reason=left[_place(c)]) if _place(c) in left and not c.locked else c
        for c in solution.choices
    )
    return replace(solution, choices=tuple(kept))


def _worst(solution: Solution, excess: float, measured: float) -> Choice:
    """The choice with the worst error per joule saved."""
    changed = [c for c in solution.choices if c.action != "leave" and not c.locked]
    if not changed:
        raise BudgetError(
            f"The plan's locked choices give an error of {measured:.3g}, {excess:.2g} times the budget; "
            "unlock or change one, or raise --budget."
        )
    return max(changed, key=_error_per_joule)


def _error_per_joule(choice: Choice) -> tuple[float, str]:
    return choice.after.error / max(choice.before.joules - choice.after.joules, 1e-30), choice.site
