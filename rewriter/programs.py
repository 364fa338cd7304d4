"""The programs that a model is rewritten as: one, or a prefill and a decode step of a causal language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..cost_model.errors import InputError
from ..cost_model.plan import Plan, Workload
from .handover import Handover
from .load import Loaded, load
from .workload import asked_workload, longest_length, sample_shapes, workload_for


@dataclass(frozen=True, eq=False)
class Part:
    """One program of a model. `name` is "" where it is the only one, else "prefill" or "decode". `workload` holds the phases that it runs
    itself, at the shapes of its own inputs; None where no phase runs it. `handover` makes its data from texts, None where texts are what
    it reads."""

    name: str
    loaded: Loaded
    workload: Workload | None
    handover: Handover | None = None


@dataclass(frozen=True, eq=False)
class Programs:
    """`parts` in the order in which they run, the one that reads texts first; `workload` as a user writes it; `notes` are sentences."""

    parts: tuple[Part, ...]
    workload: Workload
    notes: tuple[str, ...] = ()


def programs_of(model: Any, sample: Any, task: str | None, workload: Any, replayed: Plan | None) -> Programs:
    """What `model` (see `load`) is rewritten as. A transformers folder with the task "causal-lm" is two programs where its workload, asked
    for or replayed, decodes, or none is given. Raises InputError as `load` and `workload_for` do."""
    wanted = workload or (replayed.workload if replayed else None)
    asked = asked_workload(wanted)
    if _is_language_model(model, task) and (asked is None or any(phase.context for phase in asked.phases)):
        from .language_model import language_model

        return language_model(str(model), sample, asked)
    loaded = load(model, sample=sample, task=task, shapes=sample_shapes(workload), length=longest_length(wanted))
    return single(loaded, loaded.workload if workload is None and loaded.workload else wanted)


def single(loaded: Loaded, workload: Any, notes: Sequence[str] = ()) -> Programs:
    """A model that is one program."""
    found = workload_for(loaded.program, workload)
    return Programs((Part("", loaded, found),), found, tuple(notes))


def check_plan(plan: Plan | None, parts: Sequence[Part]) -> None:
    """Raises InputError where a replayed plan was made for other programs than these."""
    planned = {choice.program for choice in plan.choices} if plan else set()
    made = {part.name for part in parts}
    if planned - made:
        raise InputError(
            f"The plan was made for {_said(planned)}, and this workload makes {_said(made)}: "
            "leave --shape and --workload out to take the plan's own, or make a new plan."
        )


def _said(names: set[str]) -> str:
    plural = "s" if len(names) > 1 else ""
    return "one program" if names == {""} else f"the program{plural} " + " and ".join(sorted(names, reverse=True))


def _is_language_model(model: Any, task: str | None) -> bool:
    return isinstance(model, str | Path) and str(model).startswith("hf:") and task == "causal-lm"
