"""Joules against error, from the one table of prices and errors that a plan holds: no model is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

from ..cost_model.errors import InputError
from ..cost_model.net import Net
from ..cost_model.plan import Budget, Choice, Plan
from .candidates import scored_as
from .explain import read_plan, read_report
from .folder import is_emitted
from .score import PROBE_ROWS
from .solve import Solution, eligible, solve

STEPS = tuple(10 ** (power / 2) for power in range(-4, 3))
"""Shares of the budget at which plans are made so that what they take is in the table: a hundredth of it to ten times as much."""
MOST_WORK = 2e13
"""flop of the runs that the error of every option would take, above which only what the budget asks for is measured."""
POINTS = 16
"""Plans of a frontier between the exact one and the one of fewest joules, at most."""


def complete_table(solved: Callable[[Budget, float], Solution], choices: Sequence[Choice], budget: Budget, net: Net) -> None:
    """Measure what plans of other budgets take, so that the frontier needs no model: the options that plans between a hundredth of the
    budget and ten times it, and that of fewest joules, come to. `solved` measures what a plan under a limit takes; a plan that cannot be
    had is none of the frontier. Nothing where runs of the model would take too long."""
    options = [(c, o) for c in choices for o in c.options if scored_as(o.action) and eligible(o, c.before)]
    weights = sum(value.elements for value in net.values.values() if value.constant)
    if (
        budget.error <= 0
        or not options
        or any(c.locked for c in choices)
        or 2 * weights * PROBE_ROWS * len(options) > MOST_WORK
    ):
        return
    for step in STEPS:
        solved(replace(budget, joules=None), step * budget.error)


@dataclass(frozen=True)
class Point:
    """A plan on the frontier of one runtime: modelled `joules` and `seconds` per call of the workload, the predicted relative squared
    `error` (of several programs the largest), and the solver's `gap`."""

    joules: float
    seconds: float
    error: float
    gap: float
    choices: tuple[Choice, ...]

    @property
    def actions(self) -> dict[str, int]:
        """How often each action is taken."""
        return dict(sorted(Counter(choice.action for choice in self.choices).items()))


@dataclass(frozen=True)
class Table:
    """What a folder knows of one runtime: `programs` name -> its choices with every option, and `elsewhere` (joules, seconds) of what no
    choice covers, of all of them."""

    runtime: str
    programs: Mapping[str, tuple[Choice, ...]]
    elsewhere: tuple[float, float]

    def solve(self, budget: Budget) -> Point:
        """The plan of fewest joules within an error budget (each program by itself), or of least error within joules. Raises BudgetError
        where there is none, and InputError for joules of several programs."""
        if budget.joules is not None and len(self.programs) > 1:
            raise InputError(
                f"A joule budget limits one program, and this folder holds {' and '.join(self.programs)}; give --budget."
            )
        found = [solve(choices, budget, joules_elsewhere=self.elsewhere[0]) for choices in self.programs.values()]
        return self.point([choice for each in found for choice in each.choices], max(each.gap for each in found))

    def point(self, choices: Sequence[Choice], gap: float = 0.0) -> Point:
        """Choices with their totals."""
        errors = [sum(c.after.error for c in choices if c.program == name) for name in self.programs]
        return Point(
            self.elsewhere[0] + sum(c.after.joules for c in choices),
            self.elsewhere[1] + sum(c.after.seconds for c in choices),
            max(errors),
            gap,
            tuple(choices),
        )

    def frontier(self) -> tuple[Point, ...]:
        """Plans of which none is better in both, from the exact one to the one of fewest joules."""
        best, exact = self.solve(Budget(error=1e30)), self.solve(Budget(error=0.0))
        known = sorted(o.error for choices in self.programs.values() for c in choices for o in c.options if 0 < o.error < 1e30)
        found = [exact, best]
        if known and best.error > 0:
            low = min(known[0], best.error)
            ratio = (best.error / low) ** (1 / POINTS)
            found += [self.solve(Budget(error=low * ratio**number)) for number in range(POINTS)]
        ordered = sorted(found, key=lambda point: (point.error, point.joules))
        kept: list[Point] = []
        for point in ordered:
            if not kept or point.joules < kept[-1].joules * (1 - 1e-9):
                kept.append(point)
        return tuple(kept)


def tables_of(plan: Plan, report: Mapping[str, Any]) -> tuple[Table, ...]:
    """The tables of a folder, the runtime whose file ships first."""
    tables = []
    for runtime in dict.fromkeys(choice.runtime for choice in reversed(plan.choices)):
        mine = [choice for choice in plan.choices if choice.runtime == runtime]
        totals = report["runtimes"].get(runtime)
        if totals is None:
            continue
        seconds = totals["seconds"].get("predicted", totals["seconds"])
        elsewhere = (
            max(0.0, totals["joules"]["before"] - sum(c.before.joules for c in mine)),
            max(0.0, seconds["before"] - sum(c.before.seconds for c in mine)),
        )
        programs = dict.fromkeys(choice.program for choice in mine)
        tables.append(Table(runtime, {name: tuple(c for c in mine if c.program == name) for name in programs}, elsewhere))
    return tuple(tables)


def read_tables(folder: Path, runtime: str = "") -> tuple[Plan, dict[str, Any], tuple[Table, ...]]:
    """(plan, report, tables) of an emitted folder, of one runtime where it is named. Raises InputError as `explain` does."""
    if not is_emitted(folder):
        raise InputError(
            f"{folder} is not a folder that szilard wrote; it needs plan.json and report.json. Write one with `szilard rewrite`."
        )
    plan, report = read_plan(folder / "plan.json"), read_report(folder)
    tables = tables_of(plan, report)
    if not tables:
        raise InputError(f"{folder} has no site of which any option has a price, so there is no frontier.")
    wanted = tuple(table for table in tables if runtime in ("", table.runtime))
    if not wanted:
        raise InputError(f"{folder} has nothing for {runtime!r}; it has: {', '.join(table.runtime for table in tables)}.")
    return plan, report, wanted


def resolved(plan: Plan, points: Sequence[Point], budget: Budget) -> Plan:
    """The plan with the choices of these points in the place of its own, to be replayed with --plan."""
    taken = {(c.runtime, c.program, c.kind, c.site): c.action for point in points for c in point.choices}
    choices = (replace(c, action=taken.get((c.runtime, c.program, c.kind, c.site), c.action), reason="") for c in plan.choices)
    return replace(plan, budget=budget, choices=tuple(choices))


def unmeasured(table: Table) -> int:
    """Options that could be taken and whose error was never measured: plans with them are not on the frontier."""
    return sum(
        bool(scored_as(o.action)) and not isfinite(o.error) and isfinite(o.joules) and o.joules < c.before.joules
        for choices in table.programs.values() for c in choices for o in c.options
    )  # fmt: skip
