"""The table of prices and errors of a model, filled as far as the frontier of joules against error needs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..cost_model.net import Net
from ..cost_model.plan import Budget, Choice
from .candidates import scored_as
from .score import PROBE_ROWS
from .solve import Solution, eligible

STEPS = tuple(10 ** (power / 2) for power in range(-4, 3))
"""Shares of the budget at which plans are made so that what they take is in the table: a hundredth of it to ten times as much."""
MOST_WORK = 2e13
"""flop of the runs that the error of every option would take, above which only what the budget asks for is measured."""


def complete_table(solved: Callable[[Budget, float], Solution], choices: Sequence[Choice], budget: Budget, net: Net) -> None:
    """Measure what plans of other budgets take, so that the frontier needs no model: the options that plans between a hundredth of the
    budget and ten times it come to. `solved` measures what a plan under a limit takes. Nothing where runs of the model would take too long,
    or where a replayed plan says what is taken."""
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
