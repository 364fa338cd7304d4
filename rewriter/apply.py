"""Apply a plan's choices pass by pass, with lint and outputs checked after each: the first pass over its share is the culprit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..cost_model.errors import BudgetError, SzilardError
from ..cost_model.plan import Choice, Step
from ..cost_model.program import Program
from ..cost_model.sites import Site
from .backend import EXACT_ACTIONS, FIRST_PART, Backend
from .edges import predicted_error

if TYPE_CHECKING:
    from .check import Gate

FLIPPED = 0.1
"""An exact pass behind inexact ones may add this share to the relative squared error so far: sums in another order round some codes the
other way, which moves outputs (those of MiniLM in int8 by 11 % of their error) but hardly the error itself (by 0.1 %)."""


@dataclass(frozen=True, eq=False)
class Applied:
    """The rewritten graph with the choices that survived; `printed` holds the graph after each step, as Python."""

    graph: Any
    choices: tuple[Choice, ...]
    steps: tuple[Step, ...]
    printed: tuple[str, ...]
    rolled_back: tuple[str, ...]


def clean_up(program: Program, backend: Backend, gate: Gate) -> tuple[Any, Step]:
    """A normalised copy of the program's graph (exact, and checked to be) and the step that made it.

    Raises SzilardError where clean-up changed the outputs by more than rounding: everything after it would stand on sand."""
    started = time.perf_counter()
    graph = backend.clone(program.graph)
    nodes = backend.node_count(graph)
    changed = backend.clean_up(graph)
    backend.lint(graph)
    error = gate.sample_error(graph, padding=True)
    if error > gate.rounding:
        raise SzilardError(
            f"Clean-up moved the outputs of {program.source} by {error:.2g} (relative squared), which is a fault of szilard; "
            "please report it with the model."
        )
    step = Step("clean_up", changed, nodes, backend.node_count(graph), error, time.perf_counter() - started, backend.runtime)
    return graph, step


def apply_choices(
    clean: Any,
    choices: Sequence[Choice],
    sites: Mapping[str, Site],
    backend: Backend,
    prepared: Mapping[str, Any],
    gate: Gate,
    progress: Callable[[str], None] = lambda _: None,
    predicted: Callable[[Sequence[Choice]], float] = predicted_error,
) -> Applied:
    """Every pass in order on a copy of `clean`. A pass that fails, whose result fails lint or does not load, or whose outputs leave the
    tolerance of its kind, is undone: its choices go back to "leave" with the sentence as their reason, those of two passes to what the
    first of them made. An inexact pass may move the outputs by what its choices are `predicted` to, an exact one by rounding. Raises
    BudgetError if one of them is locked."""
    graph, kept = backend.clone(clean), list(choices)
    steps: list[Step] = []
    printed: list[str] = []
    rolled_back: list[str] = []
    begun: list[Choice] = []
    spent, inexact = 0.0, False
    for actions, rewrite in backend.passes(prepared):
        mine = [choice for choice in kept if choice.action in actions]
        if not mine:
            continue
        progress(f"{backend.runtime}: {rewrite.name}")
        started, nodes = time.perf_counter(), backend.node_count(graph)
        attempt, changed, error, problem = backend.clone(graph), 0, 0.0, ""
        exact = all(choice.action in EXACT_ACTIONS for choice in mine)
        allowed = max(gate.rounding, FLIPPED * spent) if exact else gate.tolerance(predicted(mine))
        try:
            changed = rewrite.apply(attempt, mine, sites)
            backend.lint(attempt)
            # As long as nothing is rounded, what padding gives stays equal too.
            error = gate.sample_error(attempt, padding=exact and not inexact)
        except SzilardError as fault:
            problem = str(fault).rstrip(".")
        if not problem and error - spent > allowed:
            problem = (
                f"outputs on the sample moved by {error - spent:.2g} (relative squared), more than the {allowed:.2g} that its "
                f"{len(mine)} choices may"
            )
        if problem:
            sentence = f"{rewrite.name} was undone at {', '.join(c.site for c in mine)} on {backend.runtime}: {problem}."
            if any(c.locked for c in mine):
                raise BudgetError(f"The plan's locked choices cannot be kept: {sentence}")
            rolled_back.append(sentence)
            kept = [_undone(c, sentence, c in begun) if c in mine else c for c in kept]
            continue
        begun += mine
        inexact = inexact or not exact
        graph, spent = attempt, max(spent, error)
        seconds = time.perf_counter() - started
        steps.append(Step(rewrite.name, changed, nodes, backend.node_count(graph), error, seconds, backend.runtime))
        printed.append(backend.print_step(graph))
    return Applied(graph, tuple(kept), tuple(steps), tuple(printed), tuple(rolled_back))


def _undone(choice: Choice, sentence: str, begun: bool) -> Choice:
    """The choice as it stands where a pass of it was undone, the second if its first part was `begun`."""
    if begun and choice.action in FIRST_PART:
        return replace(choice, action=FIRST_PART[choice.action], reason=sentence)
    return replace(choice, action="leave", reason=f"Left: {sentence}")
