"""`Load`: a callable repeated in batches, with the time of each batch, so that the calls between any two times can be counted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .clock import Clock

BATCH_SECONDS = 0.01
QUEUED_BATCH_SECONDS = 0.05
"""Waiting for a queue leaves the device idle for some 20 us: 0.04 % of this."""
STEADY = 0.02
_SLICES = 4


class Load:
    """`run`, called `batch` times a step. Where `run` only queues work on a device, `synchronise` waits until that is done."""

    def __init__(
        self, run: Callable[[], object], clock: Clock, synchronise: Callable[[], object] | None = None, batch: int = 1
    ) -> None:
        self.batch = batch
        self.steady = True
        self._run, self._clock, self._synchronise = run, clock, synchronise
        self._forget()

    def step(self) -> None:
        """One batch."""
        began = self._clock.now()
        for _ in range(self.batch):
            self._run()
        if self._synchronise is not None:
            self._synchronise()
        self._times += [began, self._clock.now()]
        self._calls += [self._calls[-1], self._calls[-1] + self.batch]

    def run_until(self, time: float) -> None:
        """Whole batches until `time` [s] has come."""
        while self._clock.now() < time:
            self.step()

    def start(self, seconds: float) -> None:
        """Forgets the batches so far, and runs at least one, for at least `seconds` [s]."""
        self._forget()
        self.step()
        self.run_until(self._times[0] + seconds)

    def calls_between(self, began: float, ended: float) -> float:
        """The calls from time `began` to `ended` [s] since the start; a batch cut by either counts in proportion."""
        first, last = np.interp([began, ended], self._times, self._calls[1:])
        return float(last - first)

    def warm(self, seconds: float) -> float:
        """Runs until the rate is steady, for `seconds` [s] at least and four times that at most; gives the seconds per call [s].

        Sets `batch` and `steady`: the rate of two slices, a quarter of `seconds` each, agrees to 2 %. Cold caches, low clocks and first
        compilations are over by then.
        """
        aim = BATCH_SECONDS if self._synchronise is None else QUEUED_BATCH_SECONDS
        self.start(0.0)
        while (spent := self._last_step()) < aim and self.batch < 1 << 20:
            self.batch = max(self.batch + 1, min(self.batch * 10, int(self.batch * aim / max(spent, 1e-9))))
            self.step()
        rates: list[float] = []
        self.steady = False
        while len(rates) < _SLICES or (not self.steady and len(rates) < 4 * _SLICES):
            self.start(seconds / _SLICES)
            rates.append((self._times[-1] - self._times[0]) / self._calls[-1])
            self.steady = len(rates) > 1 and abs(rates[-1] / rates[-2] - 1.0) <= STEADY
        return rates[-1]

    def _last_step(self) -> float:
        return self._times[-1] - self._times[-2]

    def _forget(self) -> None:
        self._times: list[float] = []
        self._calls: list[float] = [0.0]
