"""`calibrate_cuda`: a profile of one card from matched microbenchmarks: joules by a fit, seconds by what each microbenchmark waits for."""

from __future__ import annotations

import platform
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..cost_model.device import Coefficient, Device, device_names, load_device
from ..cost_model.energy_session import Effort
from ..cost_model.errors import InputError
from ..cost_model.fit import Estimate, Fit
from ..cost_model.fitted_profile import calibration_record, profile_with_fit
from ..cost_model.joule_design import Point, joule_points
from ..cost_model.joule_fit import LEAKAGE, JouleFit, fit_joules
from ..cost_model.measurement import Measurement, split_hash, write_measurements
from ..cost_model.time_coefficients import TimedOp, time_fit
from .cuda_bench import CudaBench
from .energy_case import Bench, part_stamp
from .measure_with_bar import measure_with_bar
from .microbenchmarks_cuda import point_case
from .part_file import PartFile
from .profile_file import write_profile

HELD_OUT = ("bert", "llama", "vit", "convnet", "quantized_linear", "spectral_attention")
"""Families that judge the profile: none of them is ever fitted on."""

EFFORT = Effort(half_width=0.01, least_seconds=0.3, most_seconds=3.5, warm_seconds=0.5, settle_seconds=0.25)
"""Five windows of three ticks for each microbenchmark: less than five seconds with all that goes before them."""

CAPPED = 0.97
"""A card that draws this share of its limit is held back by it."""


def calibrate_cuda(card: str, out: Path, *, progress: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure `card` ("cuda:0") at every microbenchmark, fit its joules and seconds, and write the profile `out`; returns a summary.

    A run that was stopped goes on from `out`.part. Without a counter seconds alone are measured and joules stay priors, with the reason.
    Raises InputError for a card that is not there or of no known kind, and for joules that the rows cannot tell apart.
    """
    bench = CudaBench(card)
    return calibrate_on(bench, profile_of(bench.device), out, progress=progress)


def calibrate_on(
    bench: Bench,
    prior: Device,
    out: Path,
    *,
    points: Sequence[Point] | None = None,
    effort: Effort = EFFORT,
    held_out: Iterable[str] = HELD_OUT,
    progress: Callable[[str], None] = print,
) -> dict[str, Any]:
    """The same on any bench, from the profile `prior`; the rows go to a CSV beside `out`. What was fitted is "measured" only if the bench
    measured: a simulated card makes a "modelled" profile."""
    design = joule_points(prior) if points is None else tuple(points)
    families, promised = {point.family for point in design}, tuple(held_out)
    progress(
        f"split {split_hash(families, promised)}: fitted on {', '.join(sorted(families))}; judged on {', '.join(promised)}"
    )
    cases = [point_case(point) for point in design]
    part, began = PartFile(out, part_stamp(bench, prior, cases)), bench.meter.clock.now()
    rows, refused = measure_with_bar(cases, bench, prior, part, effort)
    spent = bench.meter.clock.now() - began
    label = "modelled" if bench.meter.status == "modelled" else "measured"
    fits = {"seconds": _time_fit(rows, design, prior)}
    counted = [row for row in rows if row.joules is not None]
    reason = bench.meter.reason if bench.meter.status == "unavailable" else ""
    device = replace(prior, name=re.sub(r"\W+", "_", out.stem), notes=_notes(bench, prior, label, bool(counted)))
    if counted:
        kinds = {point.config: point.net.ops["op"].kind if point.net.ops else point.operator for point in design}
        fits["joules"] = joules = fit_joules(counted, prior, [kinds[row.config] for row in counted])
    elif not reason:
        reason = rows[0].reason
    for quantity, found in fits.items():
        device = profile_with_fit(device, found, _source(quantity, found, bench, label), label)
    if counted:
        device = _at_temperature(device, joules)
    machine = {"device": bench.device, "driver": bench.driver, "counter": bench.meter.reason, "host": platform.machine()}
    record = calibration_record(rows, fits, promised, datetime.now(UTC).isoformat(timespec="seconds"), machine)
    record["measuring_seconds"] = spent
    beside = out.with_suffix(".measurements.csv")
    write_measurements(beside, rows)
    write_profile(replace(_limited(device, rows, label), calibration=record), out)
    part.remove()
    return {
        "profile": str(out),
        "device": bench.device,
        "measurements": str(beside),
        "rows": len(rows),
        "measuring_seconds": spent,
        "refused": refused,
        "split_hash": record["split_hash"],
        "label": label,
        "joules": reason or _precision(rows, fits["joules"], label),
        "condition": fits["joules"].condition if counted else None,
        "fits": {quantity: _plain(found, prior) for quantity, found in fits.items()},
    }


def profile_of(name: str) -> Device:
    """The profile that comes with the package for a card of that name. Raises InputError where there is none."""
    known = [kind for kind in device_names() if re.search(rf"\b{kind}\b", name, re.IGNORECASE)]
    if not known:
        cards = ", ".join(kind for kind in device_names() if kind != "cpu")
        raise InputError(
            f"No profile comes with the package for {name}, so a fit would have no prior; there are {cards}. Copy the nearest to "
            "your own file and change its capacities and rates to those of the card's datasheet."
        )
    return load_device(known[0])


def _time_fit(rows: Sequence[Measurement], design: Sequence[Point], prior: Device) -> Fit:
    points = {point.config: point for point in design if point.timed}
    timed = []
    for row in rows:
        point = points.get(row.config)
        if point and not _waits_for_power(row):
            seconds = Estimate(*(value / point.repeats for value in (row.seconds, row.seconds_low, row.seconds_high)))
            timed.append(TimedOp(point.net.ops["op"].kind, point.cost, seconds))
    return time_fit(timed, prior)


def _waits_for_power(row: Measurement) -> bool:
    """Such a run says what the limit allows, and nothing of how fast its kernel could be."""
    if row.joules is None or row.power_limit is None:
        return False
    return row.joules / row.seconds > CAPPED * row.power_limit


def _at_temperature(device: Device, found: JouleFit) -> Device:
    """`device` whose static power says at which temperature it was found, and what it grows by."""
    if found.temperature is None or found.leakage is None or "static" in found.at_prior:
        return device
    static, leakage = device.coefficients["static"], found.leakage
    known = "believed" if LEAKAGE in found.at_prior else "fitted"
    source = (
        f"{static.source} At {found.temperature:.0f} deg C, the mean of the runs; each kelvin more draws {leakage.value:.2g} W "
        f"({leakage.low:.2g} to {leakage.high:.2g}, {known})."
    )
    return replace(device, coefficients={**device.coefficients, "static": replace(static, source=source)})


def _limited(device: Device, rows: Sequence[Measurement], label: str) -> Device:
    """The power limit as the card states it, where it does."""
    limits = [row.power_limit for row in rows if row.power_limit is not None]
    if not limits or limits[-1] <= device.value("static"):
        return device
    limit = Coefficient(
        limits[-1], "W", limits[-1], limits[-1], label, f"{label.capitalize()}: the limit that the card states."
    )
    return replace(device, coefficients={**device.coefficients, "power_limit": limit})


def _source(quantity: str, found: Fit, bench: Bench, label: str) -> str:
    how = f"a fit, condition {found.condition:.1f}," if quantity == "joules" else "the seconds"
    return (
        f"{label.capitalize()}: {how} of {found.rows} microbenchmarks on {bench.device}, median error {found.residual:.1%}. "
        + (
            bench.meter.reason
            if quantity == "joules"
            else "A rate is that of the fastest product, a utilisation the share of it."
        )
    )


def _notes(bench: Bench, prior: Device, label: str, joules: bool) -> str:
    said = f"{label} by szilard calibrate" if joules else "those of the profile it began with, as there was no energy counter"
    return f"{bench.device}, PyTorch. Seconds are {label} by szilard calibrate, joules {said}; the rest is from {prior.name}."


def _precision(rows: Sequence[Measurement], found: Fit, label: str) -> str:
    widths = [
        (row.joules_high - row.joules_low) / 2 / row.joules for row in rows if row.joules and row.joules_high and row.joules_low
    ]
    halves = [(e.high - e.low) / 2 / e.value for key, e in found.coefficients.items() if key not in found.at_prior and e.value]
    return (
        f"{label}; median half-width {statistics.median(widths):.1%} of a measurement, {statistics.median(halves):.1%} of a "
        f"coefficient; median error of the fit {found.residual:.1%}"
    )


def _plain(found: Fit, prior: Device) -> dict[str, Any]:
    coefficients = {
        key: {"value": e.value, "low": e.low, "high": e.high, "before": prior.value(key), "at_prior": key in found.at_prior}
        for key, e in found.coefficients.items()
    }
    return {"rows": found.rows, "condition": found.condition, "residual": found.residual, "coefficients": coefficients}
