"""`write_profile`: a device profile as a JSON file that `--target` takes."""

from __future__ import annotations

from pathlib import Path

from ..cost_model.device import Device
from ..cost_model.errors import InputError
from .json_text import json_text


def write_profile(device: Device, out: Path) -> None:
    """The profile as JSON in one rename. Raises InputError where it cannot be written."""
    beside = out.with_name(f"{out.name}.new")
    try:
        beside.write_text(json_text(device.to_json()), encoding="utf-8")
        beside.replace(out)
    except OSError as fault:
        raise InputError(f"The profile {out} cannot be written: {fault.strerror or fault}.") from fault
