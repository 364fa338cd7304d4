"""What a model costs as it runs here, beside what was predicted; and two models against each other in one interleaved run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ..cost_model.device import Device, load_device
from ..cost_model.errors import InputError
from ..cost_model.meter import Meter, open_meter
from ..cost_model.plan import Phase, Workload
from ..cost_model.price import price_net
from ..cost_model.program import Program
from ..cost_model.timing import Timing, measure_interleaved, median_interval, ratio_interval
from .backend import Arrays
from .calibration import read_calibration
from .explain import read_plan, read_report
from .folder import is_emitted
from .load import load
from .output_distance import output_distance
from .timed_model import Call, bound_call, timed_model
from .whole import phase_feeds
from .workload import sample_shapes, workload_for

ROUNDS = 30
METER_SECONDS = 2.0
MOST_METER_SECONDS = 20.0
_COMPARED_SAMPLES = 16
Progress = Callable[[str], None]


def measure(
    spec: str,
    *,
    workload: Any = None,
    task: str | None = None,
    rounds: int = ROUNDS,
    target: str | Path = "cpu",
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Seconds [s] and joules [J] of one call for each shape of the workload: {"runs": [{"workload", "seconds", "joules"}]}.

    Measured values are medians with an interval that holds the median with 95 %. "predicted" is the roofline of `target`, a profile of
    this machine's processor; for a folder planned for that target and this workload it is the report's own figure: "predicted_from" is
    "plan" with one shape, and with several, which a plan weighs into one figure, "rewrite": the seconds of the shape at that time.
    Joules are measured only where a counter exists; else "unavailable" says why, and "modelled" prices the measured seconds. Raises
    InputError for what cannot be used.
    """
    device = load_device(target)
    if device.kind != "cpu":
        raise InputError(
            f"{device.name} is not a processor's profile, and models are timed on this machine's processor; give --target a profile "
            f"of that, or price the model with `szilard estimate --target {target}`."
        )
    asked = workload or _planned(spec)
    loaded = load(spec, task=task, shapes=sample_shapes(asked))
    program, meter = loaded.program, open_meter()
    wanted = workload_for(program, asked or loaded.workload)
    promised = _promised(spec, wanted, device)
    runs = []
    with timed_model(program, spec) as bind:
        for phase in wanted.phases:
            progress(f"timing {phase.name}")
            call = bound_call(bind, program, phase_feeds(program, phase))
            timing = measure_interleaved({"model": call}, rounds)["model"]
            seconds, joules = _priced(program, phase, device, timing)
            known = promised.get(phase.name, {})
            watch = _metered(meter, {"model": call})
            seconds = {**seconds, **known.get("seconds", {}), "measured": timing.median, "low": timing.low, "high": timing.high}
            joules = {**joules, **known.get("joules", {}), **_joules(meter, watch)}
            runs.append({"workload": phase.name, "seconds": seconds, "joules": joules})
    return {"runs": runs}


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
    asked = workload or _planned(first) or _planned(second)
    loaded = [load(spec, task=task, shapes=sample_shapes(asked)) for spec in (first, second)]
    a, b = (each.program for each in loaded)
    _same_inputs(a, b)
    wanted = workload_for(a, asked or loaded[0].workload or loaded[1].workload)
    workload_for(b, wanted)
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


def _planned(spec: str) -> Workload | None:
    """The workload that a folder was optimised for."""
    return read_plan(Path(spec) / "plan.json").workload if is_emitted(Path(spec)) else None


def _promised(spec: str, workload: Workload, device: Device) -> dict[str, dict[str, dict[str, Any]]]:
    """What the report of a folder says of each shape; {} for any other model, and for a plan of another workload or target."""
    if not is_emitted(Path(spec)) or _planned(spec) != workload:
        return {}
    report = read_report(Path(spec))
    if report.get("target") != device.name:
        return {}
    seconds = report["seconds"]
    if len(workload.phases) == 1:
        after = seconds.get("predicted", seconds)["after"]
        planned = {
            "seconds": {"predicted": after, "predicted_from": "plan"},
            "joules": {"predicted": report["joules"]["after"]},
        }
        return {workload.phases[0].name: planned}
    timed = seconds.get("phases", {})
    return {name: {"seconds": {"predicted": row["after"], "predicted_from": "rewrite"}} for name, row in timed.items()}


def _priced(program: Program, phase: Phase, device: Device, timing: Timing) -> tuple[dict[str, Any], dict[str, Any]]:
    """Seconds and joules from the roofline, and the joules of the measured seconds."""
    total = price_net(_view(program, phase), device).total
    modelled = total.joules - total.terms["static"] + device.value("static") * timing.median
    seconds = {"predicted": total.seconds, "predicted_from": total.label}
    joules = {"predicted": total.joules, "modelled": modelled, "at_least": total.at_least, "unpriced": list(total.unpriced)}
    return seconds, joules


def _view(program: Program, phase: Phase) -> Any:
    if program.runtime == "torch":
        from .backend_torch import TorchBackend

        return TorchBackend(program).view(program.graph, phase.shapes)
    from .backend_onnx import OnnxBackend

    return OnnxBackend().view(program.graph, phase.shapes)


def _metered(meter: Meter, calls: Mapping[str, Call]) -> dict[str, tuple[float, ...]]:
    """Joules of one call by model, one for each window, in turn; {} where there is no counter to be trusted."""
    readings = meter.energies(calls, least_seconds=METER_SECONDS, most_seconds=MOST_METER_SECONDS)
    return {
        name: tuple(window.joules_per_call for window in reading.windows)
        for name, reading in readings.items()
        if reading.windows
    }


def _joules(meter: Meter, watched: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    if not watched:
        return {"measured": None, "low": None, "high": None, "label": "modelled", "unavailable": meter.reason}
    low, high = median_interval(watched["model"])
    return {"measured": statistics.median(watched["model"]), "low": low, "high": high, "label": "measured"}


def _paired(parts: Sequence[tuple[float, Mapping[str, Sequence[float]]]]) -> dict[str, float]:
    """Weighted samples of A and B as medians, and the ratio B / A with its interval."""
    a, b = (np.sum([weight * np.asarray(found[name]) for weight, found in parts], axis=0).tolist() for name in ("a", "b"))
    ratio, low, high = ratio_interval(b, a)
    return {"a": statistics.median(a), "b": statistics.median(b), "ratio": ratio, "low": low, "high": high}


def _same_inputs(a: Program, b: Program) -> None:
    if set(a.inputs) != set(b.inputs):
        raise InputError(
            f"The two models cannot be compared: {a.source} reads {', '.join(a.inputs)}; {b.source} reads {', '.join(b.inputs)}."
        )


def _samples(loaded: Sequence[Any]) -> list[Arrays]:
    """Real inputs, if either model came with some."""
    for each in loaded:
        data = read_calibration(each.calibration, each.program)
        if data is not None:
            return [dict(sample) for sample in data.held_out[:_COMPARED_SAMPLES]]
    return []
