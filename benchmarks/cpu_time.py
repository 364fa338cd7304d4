"""Predicted seconds beside measured ones on this CPU: whole models at several batches, the signs of rewrites, and classes of ops.

python -P -m szilard.benchmarks.cpu_time --device my_cpu.json [--rounds 9] [--cache DIR]

The profile comes from `szilard calibrate --device cpu --out my_cpu.json`, which sees microbenchmarks only. Writes cpu-time.csv
(measurements, as `szilard validate-model` reads them) and cpu-time.json below benchmarks/results/, and prints the verdict.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxruntime import InferenceSession
from platformdirs import user_cache_path
from rich.console import Console
from rich.table import Table

from ..cost_model.cost import total_cost
from ..cost_model.device import Device, load_device
from ..cost_model.errors import InputError
from ..cost_model.measurement import Measurement, work_of, write_measurements
from ..cost_model.meter import open_meter
from ..cost_model.sample_onnx import random_inputs
from ..cost_model.time_table import machine_fingerprint
from ..cost_model.timing import median_interval
from ..cost_model.view_onnx import view_onnx
from ..rewriter.command_line_validate import validation_text
from ..rewriter.json_text import json_text
from ..rewriter.onnx_as_run import as_onnxruntime_runs
from ..rewriter.op_times import runs_for
from ..rewriter.op_times_onnx import onnx_op_seconds
from ..rewriter.prediction import predict
from ..rewriter.quiet_machine import quiet_machine
from ..rewriter.runtime_onnx import open_session
from ..rewriter.validate_model import validate_model
from .cpu_zoo import ZOO, rewritten

RESULTS = Path(__file__).parent / "results"
RUNTIME = "onnxruntime"
LEAST_SHARE = 0.02
"""Op classes below this share of a model's time are left out: the profiler's own microseconds would be most of what they show."""

Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class TimedFile:
    """One file at one shape; `rewritten_from` is the config of the original, "" for an original."""

    config: str
    family: str
    file: Path
    feeds: Feeds
    rewritten_from: str


def cases(cache: Path) -> Iterator[TimedFile]:
    """Originals first, then what the tools make of them. Inputs are random words, images, sounds; never zeros."""
    cache.mkdir(parents=True, exist_ok=True)
    for subject in ZOO:
        source = subject.file(cache)
        files = {"": (source, tuple(subject.cases))}
        files |= {tool: (rewritten(tool, source, cache), shapes) for tool, shapes in subject.rewrites.items()}
        declared = ir.load(source)
        for tool, (file, shapes) in files.items():
            for shape in shapes:
                feeds = {**random_inputs(declared, subject.cases[shape]), **subject.values}
                original = f"{subject.name} fp32 {shape}"
                config = f"{subject.name} {tool} {shape}" if tool else original
                yield TimedFile(config, subject.family, file, feeds, original if tool else "")


def median_seconds(session: InferenceSession, feeds: Feeds, seconds: float = 0.2) -> float:
    """Median of the calls that fit `seconds`, at least three of those below a second, after one to warm up [s]."""
    session.run(None, dict(feeds))
    samples: list[float] = []
    while sum(samples) < seconds or (len(samples) < 3 and sum(samples) < 1.0):
        start = time.perf_counter()
        session.run(None, dict(feeds))
        samples.append(time.perf_counter() - start)
    return statistics.median(samples)


def measure(found: list[TimedFile], rounds: int, say: Any) -> tuple[dict[str, list[float]], float]:
    """(config -> seconds, one for each round in which a probe showed a quiet machine; the usual probe [s]).

    Rounds go there and back, so that a drift of the machine favours none; one session of a model is alive at a time.
    """
    samples: dict[str, list[float]] = {case.config: [] for case in found}
    probes: dict[str, list[float]] = {case.config: [] for case in found}
    with quiet_machine() as quiet:
        for turn in range(rounds):
            for case in found if turn % 2 == 0 else found[::-1]:
                with open_session(case.file, alone=True) as session:
                    session.run(None, dict(case.feeds))
                    quiet.wait()
                    seconds, probe = quiet.between(partial(median_seconds, session, case.feeds))
                samples[case.config].append(seconds)
                probes[case.config].append(probe)
            disturbed = sum(quiet.disturbed(probe) for laps in probes.values() for probe in laps)
            say(f"round {turn + 1} of {rounds}, {quiet.waited:.0f} s waited for a quiet machine, {disturbed} timings disturbed")
        kept = {config: quiet.undisturbed(laps, probes[config]) for config, laps in samples.items()}
        return kept, quiet.usual


def rows_of(case: TimedFile, samples: list[float], device: Device, reason: str) -> list[Measurement]:
    """The row of a whole model and, for an original, one of each op class, predicted before they were measured."""
    model = as_onnxruntime_runs(case.file)
    net = view_onnx(model, {name: tuple(array.shape) for name, array in case.feeds.items()}, dict(case.feeds))
    predicted = predict(net, device, RUNTIME)
    median, (low, high) = statistics.median(samples), median_interval(samples)
    whole = Measurement(
        case.config, case.family, "model", work_of(predicted.total), median, low, high, None, None, None, "unavailable",
        predicted_seconds=predicted.total.seconds, rewritten_from=case.rewritten_from, device=machine_fingerprint()["cpu"], reason=reason,
    )  # fmt: skip
    if case.rewritten_from:
        return [whole]
    times = onnx_op_seconds(model, case.feeds, runs_for(median, len(predicted.kernels)))
    rows = [whole]
    for name, ops in classes(predicted.kernels).items():
        timing = times.timing(ops)
        if timing.median < LEAST_SHARE * median:
            continue
        cost = total_cost(predicted.ops[op] for op in ops)
        row = replace(
            whole, config=f"{case.config}, {name}", scope="class", work=work_of(cost), seconds=timing.median,
            seconds_low=timing.low, seconds_high=timing.high, predicted_seconds=cost.seconds,
        )  # fmt: skip
        rows.append(row)
    return rows


def classes(kernels: Mapping[str, str]) -> dict[str, list[str]]:
    """Kernel -> the ops that run as it."""
    found: dict[str, list[str]] = {}
    for op, kernel in kernels.items():
        found.setdefault(kernel, []).append(op)
    return found


def table(rows: list[Measurement]) -> Table:
    """Whole models: measured beside predicted, and the sign of each rewrite."""
    shown = Table(
        title="seconds of whole models on this CPU (predicted from a table of kernels, fitted on microbenchmarks only)"
    )
    for heading in ("config", "measured", "interval", "predicted", "error", "rewrite, measured", "predicted"):
        shown.add_column(heading, justify="left" if heading == "config" else "right")
    models = {row.config: row for row in rows if row.scope == "model"}
    for row in models.values():
        assert row.predicted_seconds is not None
        error = row.predicted_seconds / row.seconds - 1
        ratios = ["", ""]
        if row.rewritten_from:
            original = models[row.rewritten_from]
            assert original.predicted_seconds is not None
            ratios = [f"x {row.seconds / original.seconds:.2f}", f"x {row.predicted_seconds / original.predicted_seconds:.2f}"]
        interval = f"{row.seconds_low * 1e3:.3f}-{row.seconds_high * 1e3:.3f}"
        shown.add_row(
            row.config,
            f"{row.seconds * 1e3:.3f} ms",
            interval,
            f"{row.predicted_seconds * 1e3:.3f} ms",
            f"{error:+.1%}",
            *ratios,
        )
    return shown


def summary(rows: list[Measurement], speed: float) -> str:
    """Errors of whole models and directions of rewrites in two sentences, beside the machine's speed at the time."""
    models = {row.config: row for row in rows if row.scope == "model"}
    lines = [f"measured: a probe took {speed:.2f} times as long as when the profile was made"]
    for words, chosen in (
        ("originals", [row for row in models.values() if not row.rewritten_from]),
        ("all", [*models.values()]),
    ):
        errors = [abs(row.predicted_seconds / row.seconds - 1) for row in chosen if row.predicted_seconds is not None]
        lines.append(f"{words}: {len(errors)} configs, median error {statistics.median(errors):.1%}, worst {max(errors):.1%}")
    pairs = [(row, models[row.rewritten_from]) for row in models.values() if row.rewritten_from]
    right = sum(
        ((row.predicted_seconds or 0.0) > (original.predicted_seconds or 0.0)) == (row.seconds > original.seconds)
        for row, original in pairs
    )
    slower = sum(row.seconds > original.seconds for row, original in pairs)
    lines.append(f"rewrites: {right} of {len(pairs)} directions right, ties included; {slower} of them slow the model down")
    return "\n".join(lines)


def main() -> None:
    """Measure, predict, write, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", required=True, help="a profile that szilard calibrate wrote on this machine")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cache", type=Path, default=user_cache_path("szilard") / "models")
    parser.add_argument("--out", type=Path, default=RESULTS)
    try:
        judge(parser.parse_args(), Console(width=150))
    except InputError as fault:
        sys.exit(f"cpu_time: {fault}")


def judge(arguments: argparse.Namespace, console: Console) -> None:
    """All of it. Raises InputError for a profile that no calibration wrote."""
    device = load_device(arguments.device)
    if "probe_seconds" not in device.calibration:
        raise InputError(
            f"{arguments.device} holds no calibration of a CPU; make one with szilard calibrate --device cpu --out FILE."
        )
    meter, found = open_meter("cpu"), list(cases(arguments.cache))
    samples, probe = measure(found, arguments.rounds, console.print)
    arguments.out.mkdir(parents=True, exist_ok=True)
    # A shared machine is not as fast today as when it was calibrated; the probe says by how much.
    speed = probe / device.calibration["probe_seconds"]
    kept: dict[str, Any] = {
        "device": device.name,
        "machine": device.calibration.get("machine"),
        "rounds": arguments.rounds,
        "probe_seconds": probe,
        "slower_than_at_calibration": speed,
        "samples": samples,
    }
    record = arguments.out / "cpu-time.json"
    record.write_text(json_text(kept), encoding="utf-8")
    rows: list[Measurement] = []
    for case in found:
        rows += rows_of(case, samples[case.config], device, meter.reason)
        console.print(f"counted {case.config}")
    write_measurements(arguments.out / "cpu-time.csv", rows)
    console.print(table(rows))
    verdict = validate_model(arguments.out / "cpu-time.csv", arguments.device)
    record.write_text(json_text(kept | {"verdict": verdict}), encoding="utf-8")
    console.print(summary(rows, speed))
    console.print(validation_text(verdict), markup=False)


if __name__ == "__main__":
    main()
