"""`fit_joules`: coefficients of energy from rows of work with their seconds and joules."""

from __future__ import annotations

from collections.abc import Sequence

from .device import Device
from .fit import Fit, fit
from .fitted_profile import prior_of
from .measurement import Measurement


def fit_joules(rows: Sequence[Measurement], prior: Device) -> Fit:
    """Joules of one call = the sum of its work and of static power times its measured seconds; `prior` holds what is believed before.

    Rows without joules are left out. Raises InputError for rows that cannot tell the coefficients apart.
    """
    counted = [(row.design, row.joules) for row in rows if row.joules is not None]
    designs = [design for design, _ in counted]
    keys = {key for design in designs for key in design}
    return fit(designs, [joules for _, joules in counted], prior_of(prior, keys))
