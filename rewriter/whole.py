"""The whole model before and after, timed in turn on this machine; a rewrite that turns out to cost more is taken back."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..cost_model.errors import InputError
from ..cost_model.plan import Phase
from ..cost_model.program import Program
from .candidates import time_in_turn
from .optimise import Optimised, Request

Measured = Mapping[str, Mapping[str, Any]]


def phase_feeds(program: Program, phase: Phase) -> dict[str, np.ndarray]:
    """The sample's own values, repeated or cut to the shapes of a phase: valid indices and masks whatever the length. InputError as
    `require_runs`."""
    require_runs(program, phase)
    return {name: np.resize(program.sample[name], phase.shapes[name]) for name in program.inputs}


def require_runs(program: Program, *phases: Phase) -> None:
    """Raises InputError for a phase with a context: the model was traced without a cache, so that no run of it is a decode step."""
    for phase in phases:
        if phase.context:
            raise InputError(
                f"The phase {phase.name} decodes with {phase.context} positions in a cache that {program.source} was traced without, so it "
                "can be priced (szilard estimate) but not run; give a --shape without @ to run the model."
            )


def measured_seconds(each: Optimised, request: Request) -> dict[str, dict[str, Any]]:
    """Phase -> {"before", "after", "ratio", "low", "high"}: median seconds per call, and after/before paired round by round with the
    lowest and the highest round, between which the median of the ratio lies with 94 % at five rounds."""
    measured: dict[str, dict[str, Any]] = {}
    for phase in request.workload.phases:
        feeds = phase_feeds(each.program, phase)
        graphs = {"before": (each.original.graph, feeds), **({"after": (each.program.graph, feeds)} if each.changed else {})}
        timed = time_in_turn(each.backend, graphs)
        before, after = timed["before"], timed.get("after", timed["before"])
        ratios = [b / a for a, b in zip(before, after, strict=True)]
        measured[phase.name] = {
            "before": statistics.median(before),
            "after": statistics.median(after),
            "ratio": statistics.median(ratios),
            "low": min(ratios),
            "high": max(ratios),
        }
    return measured


def take_back_if_dearer(each: Optimised, measured: Measured, request: Request) -> Optimised:
    """`each`, or the original where the whole rewrite surely took longer and, with these seconds, costs more joules. A plan that a
    user locked is left as it is."""
    if not each.changed or not measured or any(choice.locked for choice in each.choices):
        return each
    weights = {phase.name: phase.weight for phase in request.workload.phases}
    surely = sum(weights[name] * row["before"] * (row["low"] - 1) for name, row in measured.items()) > 0
    extra = sum(weights[name] * (row["after"] - row["before"]) for name, row in measured.items())
    watts = request.device.value("static")
    dynamic = each.conversions[0] - watts * each.conversions[1]
    dynamic += sum(
        (c.after.joules - watts * c.after.seconds) - (c.before.joules - watts * c.before.seconds) for c in each.choices
    )
    if not surely or dynamic + watts * extra < 0:
        return each
    reason = f"Left: the rewritten model as a whole took {extra * 1e3:.3g} ms more per call on this machine, whatever its parts promised."
    return replace(
        each,
        program=each.original,
        choices=tuple(replace(c, action="leave", reason=reason) if c.action != "leave" else c for c in each.choices),
        rolled_back=(*each.rolled_back, reason),
        steps=each.steps[:1],
        printed=each.printed[:1],
        error=0.0,
        metric=None,
        changed=False,
        conversions=(0.0, 0.0),
    )
