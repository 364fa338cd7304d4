"""Apply a plan's choices pass by pass, with lint and outputs checked after each: the first pass over its share is the culprit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..cost_model.plan import Choice, Step
from ..cost_model.program import Program
from ..cost_model.sites import Site
from .backend import Backend

if TYPE_CHECKING:
    from .check import Gate


@dataclass(frozen=True, eq=False)
class Applied:
    """The rewritten graph with the choices that survived; `printed` holds the graph after each step, as Python."""

    graph: Any
    choices: tuple[Choice, ...]
    steps: tuple[Step, ...]
    printed: tuple[str, ...]
    rolled_back: tuple[str, ...]


def clean_up(program: Program, backend: Backend) -> tuple[Any, Step]:
    """A normalised copy of the program's graph (exact) and the step that made it."""
    started = time.perf_counter()
    graph = backend.clone(program.graph)
    nodes = backend.node_count(graph)
    changed = backend.clean_up(graph)
    backend.lint(graph)
    step = Step("clean_up", changed, nodes, backend.node_count(graph), 0.0, time.perf_counter() - started, backend.runtime)
    return graph, step


def apply_choices(
    clean: Any,
    choices: Sequence[Choice],
    sites: Mapping[str, Site],
    backend: Backend,
    prepared: Mapping[str, Any],
    gate: Gate,
    progress: Callable[[str], None] = lambda _: None,
) -> Applied:
    """Every pass in order on a copy of `clean`. A pass whose result fails lint, or whose outputs leave the tolerance of its
    kind, is undone: its choices go back to "leave" and a sentence names it."""
    graph, kept = backend.clone(clean), list(choices)
    steps: list[Step] = []
    printed: list[str] = []
    rolled_back: list[str] = []
    spent = 0.0
    for actions, rewrite in backend.passes(prepared):
        mine = [choice for choice in kept if choice.action in actions]
        if not mine:
            continue
        progress(f"{backend.runtime}: {rewrite.name}")
        started, nodes = time.perf_counter(), backend.node_count(graph)
        attempt = backend.clone(graph)
        changed = rewrite.apply(attempt, mine, sites)
        backend.lint(attempt)
        error = gate.sample_error(attempt)
        if error - spent > gate.tolerance(mine):
            rolled_back.append(
                f"{rewrite.name} was undone at {', '.join(c.site for c in mine)}: outputs on the sample moved by {error:.2g} (relative "
                f"squared), more than the {gate.tolerance(mine):.2g} that its {len(mine)} choices may."
            )
            kept = [replace(c, action="leave") if c in mine else c for c in kept]
            continue
        graph, spent = attempt, max(spent, error)
        seconds = time.perf_counter() - started
        steps.append(Step(rewrite.name, changed, nodes, backend.node_count(graph), error, seconds, backend.runtime))
        printed.append(backend.print_step(graph))
    return Applied(graph, tuple(kept), tuple(steps), tuple(printed), tuple(rolled_back))
