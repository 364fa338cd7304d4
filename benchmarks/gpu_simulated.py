"""`SimulatedBench`: a card with hidden coefficients, on which the whole chain runs in seconds. Its joules and seconds are modelled.

The profile is wrong about it as it would be about a new card: every coefficient is drawn from the profile's own interval. The form of the
model is wrong about it too: kernels of each kind, and each configuration, have a speed and an appetite of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from zlib import crc32

import numpy as np

from ..cost_model.counter import Sensors
from ..cost_model.device import Z90, Device
from ..cost_model.idle_states import IdleStates, measure_idle
from ..cost_model.price import price_net
from ..cost_model.simulated_card import CardTraits, SimulatedCard
from ..cost_model.simulated_meter import SimulatedMeter
from ..rewriter.energy_case import EnergyCase

ENERGIES = ("flop", "byte", "launch", "static")
SPEEDS = ("rate", "bandwidth", "utilisation", "launch_seconds")
SPEED_SPREAD = 0.15
"""Relative sd of a hidden rate, bandwidth, utilisation or launch around the profile's."""
KIND_SPEED, CONFIG_SPEED = 0.1, 0.05
"""Relative sd by which kernels of one kind, and single configurations, are slower or faster than the hidden roofline."""
KIND_APPETITE, CONFIG_APPETITE = 0.03, 0.02
"""The same for joules above static power: instructions that nobody counts, and bits that toggle more or less."""
ZEROS = 0.6
"""Zeros draw this share of what random operands do above static power (Gregersen et al., SC24 workshops: up to 40 % less)."""
SPIN = (1e-3, 2.0)
_GAIN = 0.05


class SimulatedBench:
    """A bench whose card is drawn from `profile` by `seed`. `truth` holds its hidden coefficients. Time is virtual."""

    driver = "simulated"

    def __init__(self, profile: Device, seed: int) -> None:
        self.seed = seed
        self.device = f"simulated card, seed {seed}"
        self.truth = self._drawn(profile)
        static, limit = self.truth.value("static"), self.truth.value("power_limit")
        self.card = SimulatedCard(
            CardTraits(
                seed=seed,
                deep_watts=0.62 * static,
                context_watts=0.75 * static,
                active_watts=static,
                gain=1.0 + _GAIN * self._normal("gain") / Z90,
                sensors=Sensors(device=self.device, driver=self.driver, power_limit=limit),
            )
        )
        self.meter = SimulatedMeter(self.card)

    def idle(self) -> IdleStates:
        """The three idle states of the card, the deep one if nothing ran on it yet."""
        spin = self.card.load("spin", [SPIN])
        return measure_idle(self.meter, open_context=spin, spin=spin)

    def open(self, case: EnergyCase) -> Callable[[], object]:
        """One call of `case`, at the seconds and watts that the hidden card takes."""
        busy, joules = self.taken(case)
        shape = [(busy, joules / busy)] if busy else []
        return self.card.load(case.config, [*shape, *([(case.pause, 0.0)] if case.pause else [])])

    def taken(self, case: EnergyCase) -> tuple[float, float]:
        """The true busy seconds [s] of one call and its joules above static power [J], noise and drift of the card aside."""
        found = price_net(case.net, self.truth)
        seconds = joules = 0.0
        for name, cost in found.ops.items():
            kind = case.net.ops[name].kind
            seconds += cost.seconds * self._factor(KIND_SPEED, f"speed {kind}")
            joules += (cost.joules - cost.terms["static"]) * self._factor(KIND_APPETITE, f"appetite {kind}")
        seconds *= case.repeats * self._factor(CONFIG_SPEED, f"speed {case.config}")
        joules *= case.repeats * self._factor(CONFIG_APPETITE, f"appetite {case.config}") * (ZEROS if case.zeros else 1.0)
        return max(seconds, joules / (self.truth.value("power_limit") - self.truth.value("static"))), joules

    def synchronise(self) -> None:
        """Loads of a simulated card are over when they return."""

    def release(self) -> None:
        """Nothing is held."""

    def _drawn(self, profile: Device) -> Device:
        values = {}
        for key, coefficient in profile.coefficients.items():
            kind = key.partition(".")[0]
            if kind in ENERGIES and coefficient.low > 0:
                spread = np.log(coefficient.high / coefficient.low) / (2 * Z90)
                values[key] = coefficient.value * float(np.exp(np.clip(self._normal(key), -Z90, Z90) * spread))
            elif kind in SPEEDS:
                values[key] = coefficient.value * self._factor(SPEED_SPREAD, key)
        return profile.with_values(values)

    def _factor(self, spread: float, name: str) -> float:
        return float(np.exp(spread * self._normal(name)))

    def _normal(self, name: str) -> float:
        return float(np.random.default_rng(crc32(f"{self.seed}: {name}".encode())).standard_normal())
