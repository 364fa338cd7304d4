"""Two models against each other in one interleaved run on the same inputs: time, energy, and how far their outputs are apart."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from ..cost_model.meter import Meter, open_meter
from ..cost_model.timing import measure_interleaved, ratio_interval
from .backend import Arrays
from .calibration import read_calibration
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

    "ratio" is B over A, the median over rounds of paired samples, with an interval that holds it with 95 %; several shapes are weighted as
    the workload says, and "runs" has each. "error" is the relative squared distance of B's outputs from A's. Raises InputError where the
    two do not read the same inputs.
    """
    asked = workload or planned_workload(first) or planned_workload(second)
    loaded = [load(spec, task=task, shapes=sample_shapes(asked)) for spec in (first, second)]
    a, b = (each.program for each in loaded)
    same_inputs(a, b)
    wanted = workload_for(a, asked or loaded[0].workload or loaded[1].workload)
    workload_for(b, wanted)
    require_runs(b, *wanted.phases)
    meter, phases = open_meter(), []
    with ExitStack() as stack:
        binds = [stack.enter_context(timed_model(p, spec)) for p, spec in ((a, first), (b, second))]
        for phase in wanted.phases:
            progress(f"timing both at {phase.name}")
            feeds = phase_feeds(a, phase)
            calls = {"a": bound_call(binds[0], a, feeds), "b": bound_call(binds[1], b, feeds)}
            timings = measure_interleaved(calls, rounds)
            phases.append((phase, {name: timing.samples for name, timing in timings.items()}, _metered(meter, calls)))
        samples = _samples(loaded) or [phase_feeds(a, phase) for phase in wanted.phases]
        progress("comparing the outputs")
        error = output_distance(a, b, binds, samples)
    seconds = _paired([(phase.weight, found) for phase, found, _ in phases])
    watched = [(phase.weight, found) for phase, _, found in phases if found]
    return {
        "seconds": seconds,
        "joules": _paired(watched) if watched else {"unavailable": meter.reason},
        "error": error,
        "runs": [
            {"workload": phase.name, "weight": phase.weight, "seconds": _paired([(1.0, found)])} for phase, found, _ in phases
        ],
    }


def _metered(meter: Meter, calls: Mapping[str, Call]) -> dict[str, tuple[float, ...]]:
    """Joules of one call by model, one for each window, in turn; {} where there is no counter to be trusted."""
    readings = meter.energies(calls, least_seconds=METER_SECONDS, most_seconds=MOST_METER_SECONDS)
    return {
        name: tuple(window.joules_per_call for window in reading.windows)
        for name, reading in readings.items()
        if reading.windows
    }


def _paired(parts: Sequence[tuple[float, Mapping[str, Sequence[float]]]]) -> dict[str, float]:
    """Weighted samples of A and B as medians, and the ratio B / A with its interval."""
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
