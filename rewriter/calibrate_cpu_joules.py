"""Joules of a processor that has an energy counter: a few of the microbenchmarks again, in windows of that counter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import onnx_ir as ir
from rich.console import Console
from rich.progress import track

from ..cost_model.device import Coefficient, Device
from ..cost_model.errors import InputError
from ..cost_model.fit import Fit
from ..cost_model.fitted_profile import profile_with_fit
from ..cost_model.joule_fit import fit_joules
from ..cost_model.measurement import Measurement
from ..cost_model.meter import Meter
from .microbenchmark_graph import Microbenchmark
from .part_file import PartFile
from .runtime_onnx import open_session

KERNELS = ("matmul", "matmul_integer.dynamic", "binary", "softmax", "reshape", "transpose")
"""Those that lean on different terms: arithmetic in two dtypes, bytes inside and outside the caches, calls."""

EACH = 5
EFFORT: dict[str, Any] = {
    "half_width": 0.02,
    "least_seconds": 0.3,
    "most_seconds": 2.5,
    "warm_seconds": 0.3,
    "settle_seconds": 0.1,
}
"""Five windows of a counter that ticks every millisecond or so: some three seconds for each of the microbenchmarks."""

READING_SECONDS = 3.3
"""What one reading takes with that effort [s]; `test_calibrate.py` holds readings on a simulated card against it."""


@dataclass(frozen=True)
class Readings:
    """`device` with what was fitted on `rows`, or unchanged where there is no `fit`; `reason` says which counter was read and what it
    refused, or why joules stay priors."""

    device: Device
    rows: tuple[Measurement, ...]
    fit: Fit | None
    reason: str


def seconds_of_readings(meter: Meter, names: Sequence[str]) -> float:
    """What the readings of microbenchmarks with these `names` will take [s]: none without a counter."""
    return 0.0 if meter.counter is None else READING_SECONDS * len(_spread(names))


def with_joules(
    device: Device, base: Device, meter: Meter, benchmarks: Iterable[Microbenchmark], rows: Mapping[str, Any], part: PartFile,
    machine: str,
) -> Readings:  # fmt: skip
    """`device` with energies fitted on readings of `meter`, from those of `base` as prior. `rows` holds the work of each microbenchmark by
    name, `part` keeps what is read. Where nothing can be read or told apart, energies stay as they are, with the reason."""
    if meter.counter is None:
        return Readings(device, (), None, meter.reason)
    found, refused = joule_rows(meter, benchmarks, rows, part, machine)
    if not found:
        return Readings(device, (), None, f"left as priors: {next(iter(refused.values()), 'there was nothing to read')}")
    label = found[0].label
    source = f"{label.capitalize()}: {len(found)} microbenchmarks; {meter.reason}"
    try:
        fit = fit_joules(found, base)
        fitted = profile_with_fit(_limited(device, found, label), fit, source, label)
    except InputError as fault:
        return Readings(device, (), None, f"left as priors: {fault}")
    lost = f" {len(refused)} readings were refused, the first: {next(iter(refused.values()))}" if refused else ""
    return Readings(
        fitted, tuple(found), fit, f"fitted on {len(found)} readings, condition {fit.condition:.1f}; {meter.reason}{lost}"
    )


def joule_rows(
    meter: Meter, benchmarks: Iterable[Microbenchmark], rows: Mapping[str, Any], part: PartFile, machine: str
) -> tuple[list[Measurement], dict[str, str]]:
    """(seconds and joules of one call of a spread of `benchmarks`, the reason of each that the meter refused by name). `rows` holds the
    work of each by name. What `part` has read already is not read again."""
    wanted = set(_spread(list(rows)))
    chosen = [benchmark for benchmark in benchmarks if benchmark.key in wanted]
    found, refused = [], {}
    try:
        for benchmark in track(chosen, "reading joules", console=Console(stderr=True)):
            place = f"joules of {benchmark.key}"
            if place not in part.rows:
                with open_session(ir.from_proto(benchmark.model), optimize=False) as session:
                    reading = meter.energy(_call(session, benchmark), name=benchmark.key, **EFFORT)
                if reading.joules is None or reading.seconds is None:
                    refused[benchmark.key] = reading.reason
                    continue
                row = Measurement(
                    benchmark.key, benchmark.kernel, "op", rows[benchmark.key]["work"], reading.seconds, reading.seconds,
                    reading.seconds, reading.joules, reading.low, reading.high, reading.label, device=machine, reason=reading.reason,
                )  # fmt: skip
                part.put(place, asdict(row))
            found.append(Measurement(**part.rows[place]))
    finally:
        part.write()
    return found, refused


def _call(session: Any, benchmark: Microbenchmark) -> Callable[[], object]:
    return lambda: session.run(None, dict(benchmark.feeds))


def _spread(names: Sequence[str]) -> list[str]:
    """At most `EACH` names of each of `KERNELS`, from its first to its last."""
    kernels: dict[str, list[str]] = {}
    for name in names:
        if (kernel := name.partition(":")[0]) in KERNELS:
            kernels.setdefault(kernel, []).append(name)
    picked = []
    for found in kernels.values():
        count = min(EACH, len(found))
        picked += [found[i * (len(found) - 1) // max(1, count - 1)] for i in range(count)]
    return picked


def _limited(device: Device, rows: Sequence[Measurement], label: str) -> Device:
    """A power limit that the readings do not pass: the generic one is that of two cores in a virtual machine, and a counter sees the whole
    package."""
    highest = max(row.joules / row.seconds for row in rows if row.joules is not None)
    if highest <= device.value("power_limit"):
        return device
    source = f"{label.capitalize()}: no microbenchmark drew more; the limit itself may lie higher."
    limit = Coefficient(highest, "W", highest, 2 * highest, label, source)
    return replace(device, coefficients={**device.coefficients, "power_limit": limit})
