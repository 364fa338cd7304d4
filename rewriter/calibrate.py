"""`calibrate`: the one door to measuring a device, a CPU or a card."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..cost_model.errors import InputError
from ..cost_model.meter import open_meter


def calibrate(
    device: str, out: str | Path, *, passes: int = 5, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure `device` ("cpu" or "cuda:N") and write its profile to `out`; returns a summary as plain data.

    Raises InputError for a device that is not here, a folder that is not there, or a design that cannot tell coefficients apart.
    """
    target = Path(out)
    if not os.path.isdir(target.absolute().parent) or (os.path.exists(target) and not os.path.isfile(target)):
        raise InputError(f"The profile cannot be written to {target}; name a JSON file in a folder that exists.")
    if device == "cpu":
        from .calibrate_cpu import calibrate_cpu

        return calibrate_cpu(target, open_meter("cpu"), passes=passes, progress=progress)
    if not re.fullmatch(r"cuda:\d+", device):
        raise InputError(f'There is no device {device!r} to calibrate; give "cpu", or "cuda:0" for the first card.')
    from .calibrate_cuda import calibrate_cuda

    return calibrate_cuda(device, target, progress=progress)
