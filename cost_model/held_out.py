"""Which families judge a profile: never those it was fitted on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .device import Device
from .errors import InputError
from .measurement import Measurement, split_hash


@dataclass(frozen=True)
class Split:
    """`fit` families are those that the profile, and the baselines, were fitted on; `held_out` those that judge. `hash` stands for both;
    `configs` says what was measured of each family that judges. `promised` says whether the profile named all of these before it was
    fitted, None when it records no promise; `unpromised` are those that it did not name."""

    fit: tuple[str, ...]
    held_out: tuple[str, ...]
    hash: str
    configs: Mapping[str, tuple[str, ...]]
    promised: bool | None
    unpromised: tuple[str, ...] = ()


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
    fit, found = tuple(sorted(fitted or present - judged)), tuple(sorted(judged))
    digest = split_hash(fit, found)
    promised = _promised(device, digest, found)
    return Split(
        fit,
        found,
        digest,
        {family: tuple(dict.fromkeys(row.config for row in rows if row.family == family)) for family in found},
        None if promised is None else judged <= promised,
        () if promised is None else tuple(sorted(judged - promised)),
    )


def _promised(device: Device, digest: str, judged: Iterable[str]) -> set[str] | None:
    """The families that were promised to judge the profile; a record that contradicts its own hash promises none."""
    record = device.calibration
    if "split_hash" not in record:
        return None
    if record["split_hash"] == digest:
        return set(judged)
    named = record.get("held_out", ())
    return set(named) if record["split_hash"] == split_hash(record.get("families", ()), named) else set()


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
