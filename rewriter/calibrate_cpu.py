"""`calibrate_cpu`: a profile of this machine whose seconds come from timed kernels, in under five minutes."""

from __future__ import annotations

import hashlib
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from ..cost_model.device import Coefficient, Device, load_device, unit_of
from ..cost_model.errors import InputError
from ..cost_model.fit import Fit
from ..cost_model.fitted_profile import calibration_record
from ..cost_model.kernel_fit import Row, fit_kernels, kernel_of
from ..cost_model.kernel_times import TIME
from ..cost_model.measurement import Measurement, split_hash
from ..cost_model.meter import Meter
from ..cost_model.time_table import machine_fingerprint
from .calibrate_cpu_joules import seconds_of_readings, with_joules
from .cpu_caches import with_caches
from .microbenchmarks import counted, microbenchmarks, timed
from .part_file import PartFile
from .profile_file import write_profile
from .quiet_machine import quiet_machine

RUNTIME = "onnxruntime"
PASSES = 5
MOST_SECONDS = 260.0
"""No further pass begins that would end later, readings of a counter included, so that the fit ends within five minutes [s]."""

HELD_OUT = ("bert", "llama", "convnet", "ocr", "voice")
"""Families of whole models that judge the profile: none of them is ever fitted on."""

_DISPATCH = "Prior: dispatching an op takes about a microsecond; the microbenchmarks of this kernel did not say more."
_PATIENCE = 0.5
_SHARES = (1.0, 0.5, 0.25)
"""Of the last cache that the system reports, this much may be ours: other machines on the same chip share it."""


def calibrate_cpu(out: Path, meter: Meter, *, passes: int = PASSES, progress: Callable[[str], None] = print) -> dict[str, Any]:
    """Time every microbenchmark up to `passes` times, fit the law of each kernel, and write the profile `out`; returns a summary.

    A run that was stopped goes on from `out`.part if machine, versions and design are the same. Joules are fitted where `meter` reads a
    counter; else they keep the generic profile's priors, and the summary says why. Raises InputError where the result cannot be written,
    or nothing could be fitted.
    """
    ends = time.monotonic() + MOST_SECONDS
    base = with_caches(load_device("cpu"))
    fingerprint = machine_fingerprint()
    machine = {**fingerprint, "device": fingerprint["cpu"]}
    names = [benchmark.key for benchmark in microbenchmarks()]
    part = PartFile(out, _stamp(machine, base, names))
    # A place that takes no file is told before anything is timed.
    part.write()
    rows, probe = _time(part, base, names, passes, ends - seconds_of_readings(meter, names))
    measurements = [_measurement(name, row, machine["device"], meter.reason) for name, row in rows.items()]
    families = {row.family for row in measurements}
    progress(f"split {split_hash(families, HELD_OUT)}: fitted on microbenchmarks, judged on {', '.join(HELD_OUT)}")
    size, laws, refused = _best_fit(rows)
    if not laws:
        raise InputError("No kernel could be fitted; run szilard calibrate again on a quiet machine.")
    device = with_laws(base, size, laws)
    fits = {f"seconds of {kernel}": found for kernel, found in laws.items()}
    joules = with_joules(device, base, meter, microbenchmarks(), rows, part, machine["device"])
    if joules.fit:
        fits["joules"] = joules.fit
    now = datetime.now(UTC).isoformat(timespec="seconds")
    record = calibration_record([*measurements, *joules.rows], fits, HELD_OUT, now, machine)
    record["probe_seconds"] = probe
    name = re.sub(r"\W+", "_", out.stem)
    write_profile(replace(joules.device, name=name, notes=_notes(machine, bool(joules.fit)), calibration=record), out)
    part.remove()
    return {
        "profile": str(out),
        "device": name,
        "kernels": len(laws),
        "refused": refused,
        "rows": len(rows),
        "median_error": statistics.median(found.residual for found in laws.values()),
        "split_hash": record["split_hash"],
        "joules": joules.reason,
    }


def with_laws(base: Device, size: float, laws: Mapping[str, Fit]) -> Device:
    """`base` with the fitted coefficients of time and the size of the last cache [B] with which they fit."""
    table = dict(base.coefficients)
    if size != base.value("capacity.cache"):
        source = f"Measured: of {table['capacity.cache'].value:.3g} B that the system reports, the share with which kernels fit best."
        table["capacity.cache"] = Coefficient(size, "B", size / 2, size * 2, "measured", source)
    for kernel, found in laws.items():
        source = (
            f"Measured: {found.rows} microbenchmarks of onnxruntime's {kernel} on this machine, median error of the fit "
            f"{found.residual:.0%}, condition {found.condition:.1f}."
        )
        for key, estimate in found.coefficients.items():
            if kernel_of(key) == kernel:
                name = f"{TIME}.{RUNTIME}.{key}"
                low, high = min(estimate.low, estimate.value), max(estimate.high, estimate.value)
                told = ("prior", _DISPATCH) if key in found.at_prior else ("measured", source)
                table[name] = Coefficient(estimate.value, unit_of(name) or "", low, high, *told)
    return replace(base, coefficients=table)


def _best_fit(rows: Mapping[str, Any]) -> tuple[float, dict[str, Fit], dict[str, str]]:
    """(size of the last cache [B], fits, refusals) for the size with which the laws predict their own rows best."""
    found = []
    for size in next(iter(rows.values()))["kernels"]:
        named = [Row(name, row["kernels"][size], statistics.median(row["seconds"])) for name, row in rows.items()]
        fits, refused = fit_kernels(named)
        residual = statistics.fmean(fit.residual for fit in fits.values()) if fits else float("inf")
        found.append((residual + len(refused), -float(size), fits, refused))
    _, size, fits, refused = min(found, key=lambda each: each[:2])
    return -size, fits, refused


def _sizes(base: Device) -> list[float]:
    return [share * base.value("capacity.cache") for share in _SHARES]


def _stamp(machine: Mapping[str, str], base: Device, names: Sequence[str]) -> dict[str, Any]:
    """What rows of an earlier run must have in common with this one: what they were timed on, and all that their work was counted by."""
    design = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    return {**machine, "szilard": metadata.version("szilard"), "profile": base.digest, "sizes": _sizes(base), "design": design}


def _time(part: PartFile, base: Device, names: Sequence[str], passes: int, ends: float) -> tuple[dict[str, Any], float]:
    """(the row of each microbenchmark by name: its work, and the seconds of each lap on a quiet machine; the usual probe [s]). No lap but
    the first begins that would not be over when the monotonic clock says `ends` [s]."""
    sizes, spent = _sizes(base), 0.0
    laps = {name: len(part.rows[name]["seconds"]) if name in part.rows else 0 for name in names}
    try:
        with Progress(console=Console(stderr=True)) as bar, quiet_machine(_PATIENCE) as quiet:
            task = bar.add_task("timing kernels", total=passes * len(names), completed=sum(laps.values()))
            for lap in range(min(laps.values()), passes):
                if time.monotonic() + spent > ends:
                    break
                before, counting = time.monotonic(), 0.0
                for benchmark in microbenchmarks():
                    name = benchmark.key
                    row = part.rows.get(name)
                    if row is None:
                        start = time.monotonic()
                        row = {**counted(benchmark, base, sizes), "seconds": [], "probes": []}
                        counting += time.monotonic() - start
                    if len(row["seconds"]) <= lap:
                        # A disturbed machine is waited for, as long as the waits leave time for the laps.
                        if quiet.waited < MOST_SECONDS / 8:
                            quiet.wait()
                        seconds, probe = quiet.between(partial(timed, benchmark))
                        part.put(name, {**row, "seconds": [*row["seconds"], seconds], "probes": [*row["probes"], probe]})
                        bar.advance(task)
                spent = time.monotonic() - before - counting
    finally:
        part.write()
    rows = {name: part.rows[name] for name in names}
    kept = {name: {**row, "seconds": quiet.undisturbed(row["seconds"], row["probes"])} for name, row in rows.items()}
    return kept, quiet.usual


def _measurement(name: str, row: Mapping[str, Any], device: str, reason: str) -> Measurement:
    seconds, low, high = statistics.median(row["seconds"]), min(row["seconds"]), max(row["seconds"])
    family = name.partition(":")[0]
    return Measurement(
        name, family, "op", row["work"], seconds, low, high, None, None, None, "unavailable", device=device, reason=reason
    )  # fmt: skip


def _notes(machine: Mapping[str, str], counted: bool) -> str:
    version = machine.get(RUNTIME) or machine.get("onnxruntime-gpu", "")
    energies = "Energies were fitted on its counter." if counted else "Energies are those of the generic cpu profile."
    return (
        f"{machine['cpu']}, {machine['cores']} cores, onnxruntime {version} on the CPU. "
        f"Seconds of kernels were measured by szilard calibrate. {energies}"
    )
