"""Which families judge a profile: never those it was fitted on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .device import Device
from .errors import InputError
from .measurement import Measurement, split_hash


@dataclass(frozen=True)
class Split:
    """`fit` families are those that the profile, and the baselines, were fitted on; `held_out` those that judge. `hash` stands for both;
    `promised` says whether the profile recorded that hash before it was fitted, None when it records none."""

    fit: tuple[str, ...]
    held_out: tuple[str, ...]
    hash: str
    promised: bool | None


def split_families(rows: Sequence[Measurement], device: Device, held_out: Iterable[str] = ()) -> Split:
    """`held_out`, or else every family of the rows that the profile was not fitted on. For a profile that was never fitted, the baselines
    take the families that are left. Raises InputError for a family that is not in the rows or that the profile was fitted on."""
    present = {row.family for row in rows}
    fitted = set(device.calibration.get("families", ()))
    asked = set(held_out)
    if asked - present:
        raise InputError(f"The measurements have no family {_listed(asked - present)}; they hold {_listed(present)}.")
    if asked & fitted:
        raise InputError(
            f"{device.name} was fitted on the family {_listed(asked & fitted)}, which therefore cannot judge it; hold out another."
        )
    judged = asked or present - fitted
    if not judged:
        raise InputError(
            f"{device.name} was fitted on every family of these measurements ({_listed(present)}); measure models of another one."
        )
    fit = tuple(sorted(fitted or present - judged))
    found = tuple(sorted(judged))
    digest = split_hash(fit, found)
    recorded = device.calibration.get("split_hash")
    return Split(fit, found, digest, None if recorded is None else recorded == digest)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
