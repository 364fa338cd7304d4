"""The Landauer floor: the least heat of overwriting a bit. Shown beside every cost, it never decides anything."""

from __future__ import annotations

from math import log

BOLTZMANN = 1.380649e-23
"""J/K, exact by the definition of the kelvin (SI 2019)."""


def landauer_joules(bits: float, kelvin: float = 300.0) -> float:
    """kT ln 2 for each of `bits` bits that are overwritten [J] (Landauer 1961): 2.87e-21 J a bit at 300 K.

    The bits of an op are those of its outputs: each result replaces what its memory held before. Real hardware is
    seven to ten orders of magnitude above. Raises ValueError for negative bits or temperature.
    """
    if bits < 0 or kelvin < 0:
        raise ValueError(f"bits and kelvin must not be negative, got {bits} and {kelvin}")
    return bits * BOLTZMANN * kelvin * log(2.0)
