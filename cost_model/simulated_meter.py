"""`SimulatedMeter`: the meter on a simulated card. Its joules are "modelled", whatever happens: nothing was measured."""

from __future__ import annotations

from .meter import Meter
from .refusals import opening_fault, unavailable
from .simulated_card import SimulatedCard


class SimulatedMeter(Meter):
    """The meter of `card`, refused where a real one would be. Runs must be loads of that card: its clock stands still for any other."""

    def __init__(self, card: SimulatedCard) -> None:
        fault = opening_fault(card)
        if fault is not None:
            super().__init__("unavailable", unavailable(card.where, fault))
        else:
            super().__init__("modelled", "Joules are those of a simulated card: nothing is measured.", card, card)
