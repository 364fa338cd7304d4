"""`validate_model`: the verdict on a device profile as plain data, from a file of measurements."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..cost_model.device import load_device
from ..cost_model.measurement import read_measurements
from ..cost_model.validate import validate
from .json_text import plain


def validate_model(measurements: str | Path, device: str | Path, held_out: Sequence[str] = ()) -> dict[str, Any]:
    """`cost_model.validate.Validation` as plain data, with the file ("measurements") and what the profile was fitted on ("calibration").

    `device` is a profile's name or JSON file. Raises InputError for a file that cannot be used, or a split that is not honest.
    """
    profile = load_device(device)
    verdict = validate(read_measurements(measurements), profile, held_out)
    return {"measurements": str(measurements), **plain(verdict), "calibration": plain(profile.calibration)}
