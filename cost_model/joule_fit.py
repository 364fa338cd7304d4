"""`fit_joules`: coefficients of energy from rows of work with their seconds, joules and temperatures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields

from .device import Device
from .fit import Estimate, Fit, fit
from .fitted_profile import prior_of
from .measurement import Measurement

LEAKAGE = "leakage"
"""Watts that a warm device draws more, for each kelvin [W/K]. No coefficient of a profile: nobody knows how warm a device will be."""

LEAKS = (0.001, 0.003, 0.01)
"""What share of static power that is believed to be before anything is measured: low, likely, high [1/K]."""


@dataclass(frozen=True)
class JouleFit(Fit):
    """A fit of joules. Its "static" is the power at `temperature` [deg C], the mean of the rows; `leakage` [W/K] what a kelvin above it
    adds; `at_prior` names it too where the rows said next to nothing about it. Both are None where the rows have no temperatures."""

    temperature: float | None = None
    leakage: Estimate | None = None


def fit_joules(rows: Sequence[Measurement], prior: Device, kinds: Sequence[str] | None = None) -> JouleFit:
    """Joules of one call = the sum of its work and of static power times its measured seconds; `prior` holds what is believed before.

    `kinds` names the kernel of each row, its family by default: what work costs differs between kernels alike for all rows of one, by an
    amount that the rows themselves show. Rows without joules are left out. Raises InputError for rows that cannot tell the
    coefficients apart.
    """
    named = [
        (row, kind) for row, kind in zip(rows, kinds or [row.family for row in rows], strict=True) if row.joules is not None
    ]
    warmth = [row.temperature for row, _ in named if row.temperature is not None]
    middle = statistics.fmean(warmth) if warmth else None
    designs = [row.design for row, _ in named]
    believed = prior_of(prior, {key for design in designs for key in design})
    if middle is not None and "static" in believed:
        # A row whose temperature was not read is taken to have been as warm as the others.
        over = [0.0 if row.temperature is None else row.temperature - middle for row, _ in named]
        designs = [{**design, LEAKAGE: design["static"] * kelvin} for design, kelvin in zip(designs, over, strict=True)]
        low, likely, high = (share * believed["static"].value for share in LEAKS)
        believed[LEAKAGE] = Estimate(likely, low, high)
    found = fit(
        designs,
        [row.joules for row, _ in named if row.joules is not None],
        believed,
        kinds=[kind for _, kind in named],
        steady=("static", LEAKAGE),
        signed=(LEAKAGE,),
    )
    parts = {field.name: getattr(found, field.name) for field in fields(Fit)}
    leakage = found.coefficients.get(LEAKAGE)
    parts["coefficients"] = {key: estimate for key, estimate in found.coefficients.items() if key != LEAKAGE}
    return JouleFit(**parts, temperature=middle, leakage=leakage)
