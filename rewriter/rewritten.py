"""What became of each program of a model, and what its programs share: one plan, and one budget of joules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..cost_model.device import Device
from ..cost_model.plan import Budget, Plan
from ..cost_model.program import Program
from ..cost_model.sites import Miss
from ..passes.find import Found
from .as_run import as_run
from .backend import Backend
from .optimise import Optimised, Request
from .programs import Part

NOT_TIMED = (
    "The whole model was not timed before and after: it was traced without a cache, so that its phase {} cannot run here."
)


@dataclass(frozen=True, eq=False)
class Rewritten:
    """A program of a model: `done` for each of its runtimes, what was `measured` there, the misses that kept it off a runtime."""

    part: Part
    request: Request
    done: tuple[Optimised, ...]
    measured: Mapping[str, Any]
    refused: tuple[Miss, ...]

    @property
    def plan(self) -> Plan:
        """The plan of this program alone, its prices per call of the whole workload."""
        choices = tuple(choice for each in self.done for choice in each.choices)
        return Plan(self.request.device.name, self.request.workload, self.request.budget, choices, self.misses)

    @property
    def misses(self) -> tuple[Miss, ...]:
        """All that was looked for and refused, without repeats."""
        return tuple(dict.fromkeys([*self.refused, *(miss for each in self.done for miss in each.misses)]))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of its report must know."""
        decoding = [phase.name for phase in self.request.workload.phases if phase.context]
        untimed = [NOT_TIMED.format(", ".join(decoding))] if self.request.table is not None and decoding else []
        traced = [note for each in self.done for note in each.original.notes]
        return tuple(dict.fromkeys([*untimed, *self.part.loaded.notes, *traced, *(miss.reason for miss in self.refused)]))


def untouched(program: Program, backend: Backend) -> Optimised:
    """A program that no phase of the workload runs: as it is, without prices."""
    return Optimised(
        backend=backend, original=program, program=program, choices=(), misses=(), found=Found((), ()), steps=(), printed=(),
        rolled_back=(), before={}, floors={}, elsewhere=(0.0, 0.0), error=0.0, metric=None, changed=False, gap=0.0, scores={},
    )  # fmt: skip


def of_program(each: Optimised, name: str) -> Optimised:
    """`each` with its choices marked as those of the program `name`."""
    return replace(each, choices=tuple(replace(choice, program=name) for choice in each.choices))


def joules_after(each: Optimised) -> float:
    """Joules of a program after its rewrite, per call of the whole workload."""
    return each.elsewhere[0] + sum(choice.after.joules for choice in each.choices)


def part_of_plan(plan: Plan | None, name: str) -> Plan | None:
    """A plan with the choices of one program alone."""
    return replace(plan, choices=tuple(choice for choice in plan.choices if choice.program == name)) if plan else None


def budgets(budget: Budget, parts: Sequence[Part], device: Device) -> dict[str, Budget]:
    """The budget of each program by name. An error limits every program by itself; joules are shared out as they were spent before."""
    running = [part for part in parts if part.workload is not None]
    if budget.joules is None or len(running) < 2:
        return {part.name: budget for part in parts}
    spent = {part.name: _joules_before(part, device) for part in running}
    total = sum(spent.values())
    return {name: replace(budget, joules=budget.joules * joules / total) for name, joules in spent.items()}


def _joules_before(part: Part, device: Device) -> float:
    from .backend_torch import TorchBackend

    program = part.loaded.program
    prices = as_run(program, TorchBackend(program), device, program.graph)
    phases = part.workload.phases if part.workload else ()
    return sum(phase.weight * prices.prediction(phase).total.joules for phase in phases)
