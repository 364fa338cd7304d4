"""What became of each program of a model, and how a plan of all is that of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..cost_model.errors import InputError
from ..cost_model.plan import Budget, Plan
from ..cost_model.program import Program
from ..cost_model.sites import Miss
from ..passes.find import Found
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
        given = self.request
        return Plan(given.device.name, given.workload, given.budget, choices, self.misses, onnx_style=given.onnx_style)

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
    return each.elsewhere[0] + each.conversions[0] + sum(choice.after.joules for choice in each.choices)


def part_of_plan(plan: Plan | None, name: str) -> Plan | None:
    """A plan with the choices of one program alone."""
    return replace(plan, choices=tuple(choice for choice in plan.choices if choice.program == name)) if plan else None


def check_joules(budget: Budget, parts: Sequence[Part]) -> None:
    """Raises InputError where joules are to be limited over several programs: each is planned by itself."""
    running = [part.name for part in parts if part.workload is not None]
    if budget.joules is not None and len(running) > 1:
        raise InputError(
            f"A joule budget limits one program, and this workload makes {' and '.join(running)}: give --budget, or the --shape of one of "
            "them."
        )
