"""What a model costs as it runs here, beside what was predicted: the whole of it, and op by op."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..cost_model.device import Device, load_device
from ..cost_model.energy_reading import EnergyReading
from ..cost_model.errors import InputError, SzilardError
from ..cost_model.floors import floors_of
from ..cost_model.kernel_times import has_kernel_times
from ..cost_model.measurement import work_of
from ..cost_model.meter import open_meter
from ..cost_model.plan import Phase, Workload
from ..cost_model.price import with_seconds
from ..cost_model.program import Program
from ..cost_model.provenance import provenance_shares
from ..cost_model.replayed_meter import ReplayedMeter
from ..cost_model.saving import joules_interval
from ..cost_model.timing import Timing, measure_interleaved, ratio_interval
from .as_run import AS_WRITTEN
from .explain import read_report
from .folder import is_emitted
from .op_table import class_rows, op_rows, op_summary
from .prediction import Prediction, around, predict
from .quantity import quantity
from .subject import Subject, machine_of, names_of, open_subject, place_of, planned_workload, same_model, synchroniser
from .timed_model import bound_call, timed_model
from .whole import phase_feeds, require_runs
from .workload import sample_shapes, workload_for

ROUNDS = 30
METER_SECONDS = 2.0
MOST_METER_SECONDS = 20.0
OTHERWISE = 0.1
"""By how much the seconds of a recording may differ from those at hand before it is flagged."""
Progress = Callable[[str], None]


def measure(
    spec: str,
    *,
    workload: Any = None,
    task: str | None = None,
    rounds: int = ROUNDS,
    target: str | Path = "cpu",
    against: str | None = None,
    replay: str | Path | None = None,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Seconds [s] and joules [J] of one call for each shape of the workload, predicted beside measured: {"target", "machine",
    "runs", "differences", "notes"}.

    A run has "workload", "model", "config", "runtime", "work", "seconds", "joules", "floors" (see `Floors`), "ops", "classes" and "summary"
    (see `op_table`).
    Measured seconds are a median with an interval that holds it with 95 %, from calls without a profiler. "from_profile" is what the
    profile `target` predicts, with a 90 % interval by its coefficients; "predicted" the same, or, for a folder planned for that target and
    this workload, the report's own figure: "predicted_from" is "plan" with one shape, and with several, which a plan weighs into one
    figure, "rewrite": the seconds of the shape at that time. Joules are measured only where a counter exists; else "unavailable" says
    why, and "modelled" prices the measured seconds. With `replay`, measurements.csv of an earlier run, they are those recorded for
    the same config, labelled "replayed". "static" is the part of the profile's idle watts, "provenance" on what modelled ones rest.

    `target` is a profile of this machine's processor, or of its card: then the model must be PyTorch's, and runs there. With `against`,
    another model, both run in turn, and "differences" has the ratio of each shape. Raises InputError for what cannot be used.
    """
    device = load_device(target)
    meter = open_meter(device.kind) if replay is None else ReplayedMeter(replay)
    place = place_of(device, target)
    specs = [spec] if against is None else [against, spec]
    if against is not None and same_model(against, spec):
        raise InputError(f"--against names {spec} itself; name the model that it was made from.")
    asked = workload or next(filter(None, map(planned_workload, reversed(specs))), None)
    subjects = [open_subject(each, task, sample_shapes(asked), place) for each in specs]
    programs = [subject.program for subject in subjects]
    same_inputs(programs[0], programs[-1])
    wanted = workload_for(programs[-1], asked or subjects[-1].workload)
    workload_for(programs[0], wanted)
    require_runs(programs[-1], *wanted.phases)
    names = [phase.name for phase in wanted.phases]
    if len(set(names)) < len(names):
        raise InputError(f"Two shapes of the workload are called {max(names, key=names.count)}; give each a name of its own.")
    synchronise = synchroniser(place)
    promised = _promised(spec, wanted, device)
    runs: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    with ExitStack() as stack:
        binds = [stack.enter_context(timed_model(each.program, each.spec, place)) for each in subjects]
        for phase in wanted.phases:
            feeds = phase_feeds(programs[-1], phase)
            configs = [
                f"{name} {each.program.runtime} {phase.name}" for name, each in zip(names_of(specs), subjects, strict=True)
            ]
            bound = [bound_call(bind, each.program, feeds) for bind, each in zip(binds, subjects, strict=True)]
            calls = dict(zip(configs, bound, strict=True))
            progress(f"timing {phase.name}")
            timings = measure_interleaved(calls, rounds, synchronise=synchronise)
            readings = meter.energies(
                calls,
                least_seconds=METER_SECONDS,
                most_seconds=MOST_METER_SECONDS,
                synchronise=synchronise,
                idle_watts=device.value("static"),
            )
            pair = []
            for subject, config in zip(subjects, configs, strict=True):
                progress(f"timing the ops of {config}")
                known = promised.get(phase.name, {}) if subject.spec == spec else {}
                pair.append(_run(subject, config, phase, device, timings[config], readings[config], known))
            runs += pair
            if against is not None:
                differences.append(_difference(phase, pair, timings[configs[1]], timings[configs[0]]))
    return {
        "target": device.name,
        "machine": machine_of(place),
        "runs": runs,
        "differences": differences,
        "notes": _notes(device, subjects, runs),
    }


def same_inputs(a: Program, b: Program) -> None:
    """Raises InputError where two programs do not read inputs of the same names."""
    if set(a.inputs) != set(b.inputs):
        raise InputError(
            f"The two models cannot be compared: {a.source} reads {', '.join(a.inputs)}; {b.source} reads {', '.join(b.inputs)}."
        )


def _run(
    subject: Subject,
    config: str,
    phase: Phase,
    device: Device,
    timing: Timing,
    reading: EnergyReading,
    promised: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    runtime = subject.program.runtime
    prediction = predict(subject.net(phase.shapes), device, runtime, as_run=not subject.unlike)
    total = prediction.total
    seconds = {
        "predicted": total.seconds,
        "predicted_from": total.label,
        "from_profile": {
            **_estimate(total.seconds, prediction.seconds, total.label),
            "table_share": prediction.table_share,
        },
        **promised.get("seconds", {}),
        "measured": timing.median,
        "low": timing.low,
        "high": timing.high,
    }
    joules = {
        "predicted": total.joules,
        "from_profile": _estimate(total.joules, prediction.joules, "modelled"),
        **_modelled(prediction, timing),
        "at_least": total.at_least,
        "unpriced": list(total.unpriced),
        **promised.get("joules", {}),
        **_measured(reading, timing),
        "static": _static(prediction, timing, reading),
        "provenance": provenance_shares([(1.0, total)], device),
    }
    return {
        "workload": phase.name,
        "model": subject.spec,
        "config": config,
        "runtime": runtime,
        "work": work_of(total),
        "seconds": seconds,
        "joules": joules,
        "floors": asdict(floors_of(prediction.net, device)),
        "moved": dict(total.bytes_by_level),
        **_ops(subject, phase, prediction, timing),
    }


def _estimate(value: float, interval: tuple[float, float], label: str) -> dict[str, Any]:
    return {"value": value, "low": interval[0], "high": interval[1], "label": label}


def _modelled(prediction: Prediction, timing: Timing) -> dict[str, float]:
    """The joules of the measured seconds."""
    cost = with_seconds(prediction.total, prediction.device, timing.median)
    low, high = around(joules_interval(cost, prediction.device), cost.joules)
    return {"modelled": cost.joules, "modelled_low": low, "modelled_high": high}


def _static(prediction: Prediction, timing: Timing, reading: EnergyReading) -> dict[str, Any]:
    """The joules that the idle device would have drawn meanwhile, of the predicted and of those as run: "watts" of the profile."""
    static = prediction.device.coefficients["static"]
    as_run = static.value * timing.median if reading.static_joules is None else reading.static_joules
    predicted = prediction.total.terms["static"]
    return {"predicted": predicted, "as_run": as_run, "watts": static.value, "provenance": static.provenance}


def _measured(reading: EnergyReading, timing: Timing) -> dict[str, Any]:
    """What the meter says: without a counter the label is "modelled", since "modelled" is then all there is."""
    if reading.joules is None:
        return {"measured": None, "low": None, "high": None, "label": "modelled", "unavailable": reading.reason}
    return {
        "measured": reading.joules,
        "low": reading.low,
        "high": reading.high,
        "label": reading.label,
        "reason": reading.reason,
        "log": _log(reading, timing),
    }


def _log(reading: EnergyReading, timing: Timing) -> dict[str, Any]:
    """What the sensors said at the end, and how the reading came about."""
    log, flags = reading.log, list(reading.log.flags)
    if reading.label == "replayed" and reading.seconds and abs(reading.seconds / timing.median - 1.0) > OTHERWISE:
        flags.append(f"The recorded calls took {quantity(reading.seconds, 's')} each, these {quantity(timing.median, 's')}.")
    return {
        "temperature": log.after.temperature,
        "clock": log.after.clock,
        "power_limit": log.after.power_limit,
        "throttle": list(log.after.throttle),
        "device": log.after.device,
        "driver": log.after.driver,
        "stopped": log.stopped,
        "windows": len(reading.windows),
        "cross_check": log.cross_check,
        "flags": flags,
    }


def _ops(subject: Subject, phase: Phase, prediction: Prediction, timing: Timing) -> dict[str, Any]:
    try:
        times = subject.op_times(phase_feeds(subject.program, phase), timing.median, len(prediction.net.ops))
    except SzilardError as fault:
        return {"ops": [], "classes": [], "summary": {"unavailable": str(fault)}}
    rows = op_rows(prediction, times)
    return {"ops": rows, "classes": class_rows(prediction, times), "summary": op_summary(times, rows)}


def _difference(phase: Phase, pair: list[dict[str, Any]], after: Timing, before: Timing) -> dict[str, Any]:
    """The ratio that the second model of `pair` makes of the first one's seconds; "sign" is "right" or "wrong", or "not resolved" where
    the measured interval holds 1."""
    from ..cost_model.accuracy import Change, signs_of  # brings scipy.stats, which most runs do without

    measured, low, high = ratio_interval(after.samples, before.samples)
    old, new = (run["seconds"]["from_profile"]["value"] for run in pair)
    seen = signs_of([Change(phase.name, (old, new), (1.0, measured), (0.0, 0.0))])
    sign = ("right" if seen.right else "wrong") if low > 1 or high < 1 else "not resolved"
    return {"workload": phase.name, "predicted": new / old, "measured": measured, "low": low, "high": high, "sign": sign}


def _promised(spec: str, workload: Workload, device: Device) -> dict[str, dict[str, dict[str, Any]]]:
    """What the report of a folder says of each shape; {} for any other model, and for a plan of another workload or target."""
    if not is_emitted(Path(spec)) or planned_workload(spec) != workload:
        return {}
    whole = read_report(Path(spec))
    if whole.get("target") != device.name:
        return {}
    # Of two programs each has its own share of a call.
    report = whole.get("programs", {}).get("prefill", whole)
    share = report.get("share", 1.0)
    seconds = report["seconds"]
    if len(workload.phases) == 1:
        after = seconds.get("predicted", seconds)["after"] / share
        planned = {
            "seconds": {"predicted": after, "predicted_from": "plan"},
            "joules": {"predicted": report["joules"]["after"] / share},
        }
        return {workload.phases[0].name: planned}
    timed = seconds.get("phases", {})
    return {name: {"seconds": {"predicted": row["after"], "predicted_from": "rewrite"}} for name, row in timed.items()}


def _notes(device: Device, subjects: Sequence[Subject], runs: list[dict[str, Any]]) -> list[str]:
    runtime = subjects[-1].program.runtime
    if not has_kernel_times(device, runtime):
        how = "`szilard calibrate` makes a profile that has them"
        return [
            f"The profile {device.name} holds no measured times of {runtime}'s kernels, so seconds are the roofline's; {how}."
        ]
    kinds = sorted({row["kind"] for run in runs for row in run["ops"] if row["label"] == "roofline" and row["predicted"] > 0})
    rest = [f"Without a measured time in the profile {device.name}, so by the roofline: {', '.join(kinds)}."] if kinds else []
    return [*(AS_WRITTEN.format(subject.spec, subject.unlike) for subject in subjects if subject.unlike), *rest]
