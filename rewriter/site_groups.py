"""The sites of a program before anything is priced, at the largest shapes of its workload."""

from __future__ import annotations

from math import prod
from typing import Any

from ..cost_model.net import Net
from ..cost_model.plan import Phase, Workload
from ..cost_model.program import Program
from ..passes.find import find
from .backend import Backend, Group, groups_of


def largest_phase(workload: Workload) -> Phase:
    """The phase of the most inputs, which says how long sequences are. New tokens of a decode phase do not, unless every phase decodes."""
    whole = [phase for phase in workload.phases if not phase.context] or workload.phases
    return max(whole, key=lambda phase: sum(prod(shape) for shape in phase.shapes.values()))


def site_groups(program: Program, backend: Backend, workload: Workload) -> tuple[Any, Net, tuple[Group, ...]]:
    """(a normalised copy of the program's graph, its net at the largest phase, the groups of its sites)."""
    graph = backend.clone(program.graph)
    backend.clean_up(graph)
    net = backend.view(graph, largest_phase(workload).shapes)
    return graph, net, groups_of(find(net).sites)
