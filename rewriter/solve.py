"""The discrete solve of a plan: one option for every site group, the fewest joules under the error budget (or the least
error under a joule budget)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from ..cost_model.errors import BudgetError
from ..cost_model.plan import Budget, Choice, Option
from .edges import Converted, Edge, conversions, paid

MARGIN = 2e-6
"""Twice what HiGHS lets a sum of whole numbers lie over its bound (mip_feasibility_tolerance)."""


@dataclass(frozen=True)
class Solution:
    """`choices` with their actions set; predicted `joules` [J per call] and `error` (relative squared, additive) over all of
    them and the conversions between them; `gap` is the relative distance to the solver's bound. `converted`: the edges whose value is
    written in floating point and read in codes, or the other way round."""

    choices: tuple[Choice, ...]
    joules: float
    error: float
    gap: float
    converted: tuple[Converted, ...] = ()


def eligible(option: Option, leave: Option) -> bool:
    """Whether an option may be taken: it has a kernel, costs less than leaving the site, and the saving is measured or its
    interval lies above zero. One on codes may cost more by itself: it can save the conversions of its neighbours."""
    if option.action == "leave":
        return True
    saves = option.joules < leave.joules or option.quantized
    return not option.reason and saves and (option.label == "measured" or option.saving[0] > 0)


def solve(
    choices: Sequence[Choice],
    budget: Budget,
    *,
    error_limit: float | None = None,
    joules_elsewhere: float = 0.0,
    edges: Sequence[Edge] = (),
) -> Solution:
    """Minimise joules subject to the sum of predicted errors (HiGHS, exact to the reported gap, deterministic).

    `error_limit` replaces `budget.error` while a check tightens it; `joules_elsewhere` is what ops outside every group cost, which a
    joule budget includes. `edges`: what conversions cost between sites that can run on codes. Locked choices keep their action. Raises
    BudgetError where a joule budget cannot be met.
    """
    limit = budget.error if error_limit is None else error_limit
    table = [_candidates(choice, limit if budget.joules is None else float("inf")) for choice in choices]
    if not table:
        require_joules(joules_elsewhere, budget)
        return Solution((), 0.0, 0.0, 0.0)
    rows = np.repeat(np.arange(len(table)), [len(options) for options in table])
    between = conversions(choices, table, edges)
    joules = np.array([*(o.joules for options in table for o in options), *between.joules])
    errors = np.array([*(o.error for options in table for o in options), *between.errors])
    each_once = LinearConstraint(
        csr_array((np.ones(len(rows)), (rows, np.arange(len(rows)))), shape=(len(table), len(joules))), 1, 1
    )
    structure = [each_once, *between.constraints]
    highest = np.array([1.0] * len(rows) + [float(able) for able in between.allowed])
    if budget.joules is None and not any(choice.locked for choice in choices):
        # As `_candidates` has it of options: one error far over the limit would be the scale in which the solver takes the limit.
        highest[errors > limit] = 0.0
    joule_scale, error_scale = max(joules.max(), 1e-300), max(limit, float(errors[highest > 0].max()), 1e-12)
    if budget.joules is None:
        objective, constrained, bound = joules / joule_scale, errors / error_scale, limit / error_scale
        if any(choice.locked for choice in choices):
            # What is locked may spend more: then nothing else spends anything, and the check on held-out data has the last word.
            bound = max(bound, float(_milp(errors / error_scale, structure, highest).fun))
    else:
        smallest = sum(min(o.joules for o in options) for options in table) + joules_elsewhere
        require_joules(smallest, budget)
        objective, constrained, bound = (
            errors / error_scale,
            joules / joule_scale,
            (budget.joules - joules_elsewhere) / joule_scale,
        )
    within = _at_most(constrained, bound)
    first = _milp(objective, [*structure, within], highest)
    if float(constrained @ np.round(first.x)) > bound * (1 + 1e-12):
        within = _at_most(constrained, bound - MARGIN)
        first = _milp(objective, [*structure, within], highest)
    # Among equal optima the smaller value of the other quantity, so that ties never depend on the solver. A second solve: a
    # weight small enough to leave the objective alone (1e-9) lies below HiGHS's tolerance of 1e-7 and decided nothing.
    best = LinearConstraint(objective[None, :], -np.inf, float(objective @ np.round(first.x)) + 1e-9)
    result = _milp(constrained, [*structure, within, best], highest)
    picked = np.flatnonzero(result.x[: len(rows)] > 0.5)
    flat = [o for options in table for o in options]
    chosen = tuple(replace(choice, action=flat[i].action) for choice, i in zip(choices, picked, strict=True))
    converted = paid(chosen, edges)
    spent = float(joules[picked].sum()) + sum(each.joules for each in converted)
    error = float(errors[picked].sum()) + sum(each.error for each in converted)
    return Solution(chosen, spent, error, float(first.mip_gap or 0.0), converted)


def _at_most(constrained: np.ndarray, bound: float) -> LinearConstraint:
    return LinearConstraint(constrained[None, :], -np.inf, bound * (1 + 1e-12))


def _milp(objective: np.ndarray, constraints: list[LinearConstraint], highest: np.ndarray) -> Any:
    """HiGHS's answer in zeros and ones, at most `highest`. BudgetError where there is none."""
    result = milp(
        objective,
        constraints=constraints,
        integrality=np.ones(len(objective)),
        bounds=Bounds(0, highest),
        options={"mip_rel_gap": 1e-6},
    )
    if result.x is None:
        raise BudgetError(f"No plan meets the budget ({result.message}); raise the budget or unlock a site.")
    return result


def _candidates(choice: Choice, limit: float) -> list[Option]:
    if choice.locked:
        option = choice.option(choice.action)
        if not isfinite(option.error):
            raise BudgetError(
                f"The plan locks {option.action} at {choice.site}, which gives outputs that are not finite; unlock it."
            )
        return [option]
    leave = choice.before
    return [o for o in choice.options if eligible(o, leave) and isfinite(o.error) and (o.error == 0 or o.error <= limit)]


def require_joules(smallest: float, budget: Budget) -> None:
    """BudgetError where even `smallest` [J per call] lies over the joule budget."""
    if budget.joules is not None and smallest > budget.joules * (1 + 1e-9):
        raise BudgetError(
            f"The joule budget of {budget.joules:.4g} J per call cannot be met: the cheapest plan known costs {smallest:.4g} J "
            "per call. Raise --joules, or see `szilard explain` for the options that were refused."
        )


def with_reasons(choices: Sequence[Choice], budget: Budget) -> tuple[Choice, ...]:
    """Each choice with one sentence that says why its action was taken rather than the others."""
    return tuple(replace(choice, reason=choice.reason or _reason(choice, budget)) for choice in choices)


def _reason(choice: Choice, budget: Budget) -> str:
    leave, taken = choice.before, choice.after
    if choice.locked:
        return f"{taken.action} is locked by the plan."
    if taken.action != "leave":
        saved = 1 - taken.joules / leave.joules if leave.joules else 0.0
        error = "exact" if taken.error == 0 else f"adds {taken.error:.2g} to the predicted error"
        if taken.error and budget.joules is None and not budget.metric:
            error += f", of a budget of {budget.error:g}"
        return (
            f"{taken.action} takes {saved:.0%} off the modelled {leave.joules:.3g} J per call ({taken.label} seconds), {error}."
        )
    others = [o for o in choice.options if o.action != "leave"]
    if not others:
        return "Nothing else is known for this site on this runtime."
    cheaper = [o for o in others if eligible(o, leave)]
    if cheaper:
        best = min(cheaper, key=lambda o: o.joules)
        saved = 1 - best.joules / leave.joules
        if budget.joules is not None:
            return f"Left: {best.action} would save {saved:.0%} with an error of {best.error:.2g}, but the joule budget is met without it."
        if best.quantized:
            return (
                f"Left: {best.action} would save {saved:.0%} between neighbours on codes; with the conversions that it would need here, "
                f"or beside the other choices' errors, its error of {best.error:.2g} does not pay."
            )
        return f"Left: {best.action} would save {saved:.0%}, but its error of {best.error:.2g} does not fit beside the other choices'."
    return "Left: " + "; ".join(refused(o, leave) for o in sorted(others, key=lambda o: (o.joules, o.action))[:3]) + "."


def refused(option: Option, leave: Option) -> str:
    """Why an option that is not `eligible` is not, as half a sentence."""
    if option.reason:
        return f"{option.action} is refused ({option.reason.rstrip('.')})"
    if option.joules >= leave.joules:
        return f"{option.action} costs {option.joules / leave.joules - 1:.0%} more joules (modelled, {option.label} seconds)"
    return f"the saving of {option.action} is uncertain (modelled, {option.saving[0]:.2g} to {option.saving[1]:.2g} J)"
