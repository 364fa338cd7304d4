"""Joules against error, from the one table of prices and errors that a plan holds: no model is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

from ..cost_model.errors import InputError
from ..cost_model.plan import Budget, Choice, Plan
from .edges import Edge, paid, predicted_error
from .explain import read_emitted
from .solve import solve

POINTS = 16
"""Plans of a frontier between the exact one and the one of fewest joules, at most."""
NOT_MEASURED = "its error was not measured"
"""How the reason of an option begins that could be taken but for that."""


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
    """What a folder knows of one runtime: `programs` name -> its choices with every option, `elsewhere` (joules, seconds) of what no
    choice covers, of all of them, and name -> `edges` that conversions are paid on."""

    runtime: str
    programs: Mapping[str, tuple[Choice, ...]]
    elsewhere: tuple[float, float]
    edges: Mapping[str, tuple[Edge, ...]] = field(default_factory=dict)

    def solve(self, budget: Budget) -> Point:
        """The plan of fewest joules within an error budget (each program by itself), or of least error within joules. Raises BudgetError
        where there is none, and InputError for joules of several programs."""
        if budget.joules is not None and len(self.programs) > 1:
            raise InputError(
                f"A joule budget limits one program, and this folder holds {' and '.join(self.programs)}; give --budget."
            )
        found = [
            solve(choices, budget, joules_elsewhere=self.elsewhere[0], edges=self.edges.get(name, ()))
            for name, choices in self.programs.items()
        ]
        return self.point([choice for each in found for choice in each.choices], max(each.gap for each in found))

    def point(self, choices: Sequence[Choice], gap: float = 0.0) -> Point:
        """Choices with their totals."""
        parts = {name: [c for c in choices if c.program == name] for name in self.programs}
        spent = {name: paid(mine, self.edges.get(name, ())) for name, mine in parts.items()}
        between = [each for found in spent.values() for each in found]
        return Point(
            self.elsewhere[0] + sum(c.after.joules for c in choices) + sum(each.joules for each in between),
            self.elsewhere[1] + sum(c.after.seconds for c in choices) + sum(each.seconds for each in between),
            max(predicted_error(mine, self.edges.get(name, ())) for name, mine in parts.items()),
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
        edges = [row for row in report.get("edges", ()) if row["runtime"] == runtime]
        between = {name: tuple(_edge(row) for row in edges if row.get("program", "") == name) for name in programs}
        tables.append(
            Table(
                runtime,
                {name: tuple(c for c in mine if c.program == name) for name in programs},
                elsewhere,
                between,
            )
        )
    return tuple(tables)


def _edge(row: Mapping[str, Any]) -> Edge:
    """An edge from JSON; a number that is null was not found."""
    known = {name: inf if row[name] is None else float(row[name]) for name in ("quantize", "dequantize", "error")}
    forth, back = (inf if each is None else float(each) for each in row["seconds"])
    return Edge(row["value"], row["producer"], tuple(row["consumers"]), **known, seconds=(forth, back))


def read_tables(folder: Path, runtime: str = "") -> tuple[Plan, dict[str, Any], tuple[Table, ...]]:
    """(plan, report, tables) of an emitted folder, of one runtime where it is named. Raises InputError as `explain` does."""
    plan, report = read_emitted(folder)
    tables = tables_of(plan, report)
    if not tables:
        raise InputError(f"{folder} has no site of which any option has a price, so there is no frontier.")
    wanted = tuple(table for table in tables if runtime in ("", table.runtime))
    if not wanted:
        raise InputError(f"{folder} has nothing for {runtime!r}; it has: {', '.join(table.runtime for table in tables)}.")
    return plan, report, wanted


def resolved(plan: Plan, points: Sequence[Point], budget: Budget) -> Plan:
    """The plan with the choices of these points alone, to be replayed with --plan, which decides by itself on runtimes that they say
    nothing of. Where a metric is the plan's budget it stays the budget: that of the points is one of predicted errors."""
    choices = tuple(replace(choice, reason="") for point in points for choice in point.choices)
    return replace(plan, budget=plan.budget if plan.budget.metric else budget, choices=choices)


def unmeasured(table: Table) -> int:
    """Options that could be taken and whose error was never measured: plans with them are not on the frontier."""
    return sum(o.reason.startswith(NOT_MEASURED) for choices in table.programs.values() for c in choices for o in c.options)
