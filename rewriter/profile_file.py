"""`write_profile`: a device profile as a JSON file that `--target` takes."""

from __future__ import annotations

from pathlib import Path

from ..cost_model.device import Device
from ..cost_model.whole_file import write_whole
from .json_text import json_text


def write_profile(device: Device, out: Path) -> None:
    """The profile as JSON in one rename. Raises InputError where it cannot be written."""
    write_whole(out, json_text(device.to_json()))
