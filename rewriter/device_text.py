"""Device profiles as people read them: each number with its unit, interval, provenance and source, under what it means."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from ..cost_model.coefficients import FAMILIES, by_family, provenance_counts
from ..cost_model.device import Coefficient, Device
from .command_line_output import columns
from .quantity import number, quantity

WIDTH = 118


def devices_text(devices: Sequence[Device]) -> str:
    """One row for each profile, its notes below it."""
    rows = [("name", "kind", "coefficients")]
    rows += [(device.name, device.kind, counted(device)) for device in devices]
    head, *lines = columns(rows).splitlines()
    blocks = [f"{line}\n{_wrapped(device.notes, 4)}" for line, device in zip(lines, devices, strict=True)]
    return "\n".join(
        [head, *blocks, "", "`szilard devices show NAME` explains every number; any command takes --target NAME or a file."]
    )


def device_text(device: Device) -> str:
    """A block for each family of coefficients: what they mean, then a row for each with its source below it."""
    lines = [_wrapped(f"{device.name} ({device.kind}): {device.notes}", 0), _wrapped(_summary(device), 0)]
    if device.calibration:
        lines.append(_wrapped(_calibrated(device), 0))
    for family, members in by_family(device.coefficients).items():
        widest = max(map(len, members))
        lines += ["", _wrapped(FAMILIES.get(family, f"{family}."), 0)]
        for key, coefficient in members.items():
            lines += [f"  {_row(key, coefficient, widest)}", _wrapped(coefficient.source.strip(), 6)]
    return "\n".join(lines)


def counted(device: Device) -> str:
    """How many coefficients of each provenance: "21 prior, 14 datasheet"."""
    return ", ".join(f"{count} {word}" for word, count in provenance_counts(device).items())


def _summary(device: Device) -> str:
    said = f"{len(device.coefficients)} coefficients: {counted(device)}. Intervals are 5 % and 95 %."
    if provenance_counts(device).get("prior"):
        said += " A prior is believed, not measured; `szilard calibrate` replaces those that this machine can tell."
    return said


def _calibrated(device: Device) -> str:
    """What is recorded of the fit: somebody may have left fields out."""
    record = device.calibration
    date = f" {record['date']}" if record.get("date") else ""
    rows = f"{record['rows']} rows" if "rows" in record else "rows"
    return (
        f"Calibrated{date} on {rows} of {', '.join(record.get('families', [])) or 'families that are not recorded'}; condition "
        f"{number(record.get('condition'))}."
    )


def _row(key: str, coefficient: Coefficient, widest: int) -> str:
    value, low, high = (_amount(x, coefficient.unit) for x in (coefficient.value, coefficient.low, coefficient.high))
    interval = "exact" if coefficient.low == coefficient.high else f"{low} to {high}"
    return f"{key:<{widest}}  {value:>14}  {coefficient.provenance:<9}  {interval}"


def _amount(value: float, unit: str) -> str:
    return number(value) if unit == "1" else quantity(value, unit)


def _wrapped(text: str, indent: int) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * indent, break_long_words=False)
