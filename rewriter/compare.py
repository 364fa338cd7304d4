"""Two models against each other in one interleaved run on the same inputs: time, energy, and how far their outputs are apart."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import numpy as np

from ..cost_model.energy_reading import EnergyReading
from ..cost_model.joule_ratio import joule_ratio
from ..cost_model.meter import Meter, open_meter
from ..cost_model.timing import measure_interleaved, ratio_interval
from .backend import Arrays
from .calibration_data import read_calibration
from .load import load
from .measure import METER_SECONDS, MOST_METER_SECONDS, ROUNDS, Progress, same_inputs
from .output_distance import output_distance
from .subject import planned_workload
from .timed_model import Call, bound_call, timed_model
from .whole import phase_feeds, require_runs
from .workload import sample_shapes, workload_for

_COMPARED_SAMPLES = 16


def compare(
    first: str,
    second: str,
    *,
    workload: Any = None,
    task: str | None = None,
    rounds: int = ROUNDS,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """B against A in one interleaved run on the same inputs: {"seconds": {"a", "b", "ratio", "low", "high"}, "joules", "error", "runs"}.

    "ratio" is B over A with an interval that holds it with 95 %: of seconds the median over rounds of paired samples, of joules that of
    means over windows (`joule_ratio`), with their "label", or "unavailable" with the reason where a counter refuses any shape. Several
    shapes are weighted as the workload says, and "runs" has each. "error" is the relative squared distance of B's outputs from A's.
    Raises InputError where the two do not read the same inputs.
    """
    asked = workload or planned_workload(first) or planned_workload(second)
    loaded = [load(spec, task=task, shapes=sample_shapes(asked)) for spec in (first, second)]
    a, b = (each.program for each in loaded)
    same_inputs(a, b)
    wanted = workload_for(a, asked or loaded[0].workload or loaded[1].workload)
    workload_for(b, wanted)
    require_runs(b, *wanted.phases)
    meter, phases = open_meter(), []
    parts: list[tuple[float, dict[str, EnergyReading]]] = []
    refused = ""
    with ExitStack() as stack:
        binds = [stack.enter_context(timed_model(p, spec)) for p, spec in ((a, first), (b, second))]
        for phase in wanted.phases:
            progress(f"timing both at {phase.name}")
            feeds = phase_feeds(a, phase)
            calls = {"a": bound_call(binds[0], a, feeds), "b": bound_call(binds[1], b, feeds)}
            timings = measure_interleaved(calls, rounds)
            phases.append((phase, {name: timing.samples for name, timing in timings.items()}))
            if not refused:
                parts.append((phase.weight, _readings(meter, calls)))
                refused = _refusal(parts[-1][1], phase.name if meter.status != "unavailable" and wanted.phases[1:] else "")
        samples = _samples(loaded) or [phase_feeds(a, phase) for phase in wanted.phases]
        progress("comparing the outputs")
        error = output_distance(a, b, binds, samples)
    return {
        "seconds": _paired([(phase.weight, found) for phase, found in phases]),
        "joules": {"unavailable": refused} if refused else _joules(parts),
        "error": error,
        "runs": [
            {"workload": phase.name, "weight": phase.weight, "seconds": _paired([(1.0, found)])} for phase, found in phases
        ],
    }


def _readings(meter: Meter, calls: Mapping[str, Call]) -> dict[str, EnergyReading]:
    return meter.energies(calls, least_seconds=METER_SECONDS, most_seconds=MOST_METER_SECONDS)


def _refusal(readings: Mapping[str, EnergyReading], shape: str) -> str:
    """Why a model has no joules at a shape, "" where all have: joules of some shapes alone are not those of the workload."""
    reason = next((reading.reason for reading in readings.values() if reading.joules is None), "")
    return f"at {shape}: {reason}" if reason and shape else reason


def _joules(parts: Sequence[tuple[float, Mapping[str, EnergyReading]]]) -> dict[str, Any]:
    """Weighted joules of A and B, their ratio with its interval, and how they were had."""

    def windows(reading: EnergyReading) -> list[float]:
        return [window.joules_per_call for window in reading.windows]

    ratio = joule_ratio([(weight, windows(readings["a"]), windows(readings["b"])) for weight, readings in parts])
    return {**asdict(ratio), "label": parts[0][1]["a"].label}


def _paired(parts: Sequence[tuple[float, Mapping[str, Sequence[float]]]]) -> dict[str, float]:
    """Weighted samples of A and B, of which every shape has as many, as medians, and the ratio B / A with its interval."""
    a, b = (np.sum([weight * np.asarray(found[name]) for weight, found in parts], axis=0).tolist() for name in ("a", "b"))
    ratio, low, high = ratio_interval(b, a)
    return {"a": statistics.median(a), "b": statistics.median(b), "ratio": ratio, "low": low, "high": high}


def _samples(loaded: Sequence[Any]) -> list[Arrays]:
    """Real inputs, if either model came with some."""
    for each in loaded:
        data = read_calibration(each.calibration, each.program)
        if data is not None:
            return [dict(sample) for sample in data.held_out[:_COMPARED_SAMPLES]]
    return []
