"""From a fit back to a device profile, and from a profile to the prior of the next fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from .baselines import fit_baselines
from .device import UNITS, Coefficient, Device, device_from_json
from .fit import Estimate, Fit
from .measurement import Measurement, split_hash


def prior_of(device: Device, keys: Iterable[str]) -> dict[str, Estimate]:
    """The coefficients of a profile as a prior, those of `keys` that it has. Raises nothing for the others: they have no prior."""
    table = device.coefficients
    return {key: Estimate(table[key].value, table[key].low, table[key].high) for key in keys if key in table}


def profile_with_fit(device: Device, fit: Fit, source: str, provenance: str = "measured") -> Device:
    """`device` with what was fitted: value, interval, `provenance` and the sentence `source`; what the rows said nothing about stays.

    `provenance` is "modelled" where the joules came from a simulated meter. Raises InputError when the outcome is no valid profile, as when
    static power reaches the power limit.
    """
    table = dict(device.coefficients)
    for key, found in fit.coefficients.items():
        if key not in fit.at_prior:
            table[key] = Coefficient(found.value, UNITS[key.partition(".")[0]], found.low, found.high, provenance, source)
    return device_from_json(replace(device, coefficients=table).to_json(), device.name)


def calibration_record(
    rows: Iterable[Measurement], fits: Mapping[str, Fit], held_out: Iterable[str], date: str, machine: Mapping[str, Any]
) -> dict[str, Any]:
    """What a calibrated profile remembers under `Device.calibration`, as plain JSON data.

    "families" are those it was fitted on, "held_out" those promised to judge it, "split_hash" stands for both; "rows" are all of them,
    "condition" the largest of the fits; "fits" gives "rows", "condition", median "residual" and keys "at_prior" of each of `fits`, by what
    it is of ("joules", "seconds of matmul"); "baselines" were fitted on the same rows; then "date" and "machine", whose "device" is the
    name that the measurements state.
    """
    found = tuple(rows)
    families, promised = sorted({row.family for row in found}), sorted(set(held_out))
    return {
        "families": families,
        "held_out": promised,
        "split_hash": split_hash(families, promised),
        "rows": len(found),
        "condition": max((fit.condition for fit in fits.values() if fit.condition is not None), default=None),
        "fits": {name: _summary(fit) for name, fit in fits.items()},
        "baselines": fit_baselines(found),
        "date": date,
        "machine": dict(machine),
    }


def _summary(fit: Fit) -> dict[str, Any]:
    return {"rows": fit.rows, "condition": fit.condition, "residual": fit.residual, "at_prior": list(fit.at_prior)}
