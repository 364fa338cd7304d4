"""`QuietMachine`: waits until a probe runs at its usual speed: others on a shared machine slow it by up to two for seconds at a time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import onnx_ir as ir

from .microbenchmark_graph import Chain
from .runtime_onnx import open_session

SLOWER = 1.25
"""A probe this much above the usual one says that something else runs: on a machine left alone probes lay between 0.53 and 0.63 ms, and
between 0.75 and 0.95 ms while a neighbour on the same chip was busy."""

_USUAL = 25
"""Per cent of all probes that are as fast as the usual one: the fastest of thousands is a rare stroke of luck."""

_CALLS, _PAUSE, _BASELINE, _LEAST_LAPS = 3, 0.05, 1.0, 3

Result = TypeVar("Result")


class QuietMachine:
    """`probe` takes about a millisecond on all cores. `patience` is how long `wait` may wait before it gives up, once [s]."""

    def __init__(
        self, probe: Callable[[], object], patience: float = 1.0, clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self._probe, self._clock, self._sleep = probe, clock, sleep
        self.patience, self.waited = patience, 0.0
        self._probes: list[float] = []
        began = clock()
        while clock() - began < _BASELINE:
            self.probe()

    @property
    def usual(self) -> float:
        """What the probe takes on this machine when nothing else runs, as far as was seen [s]."""
        return float(np.percentile(self._probes, _USUAL))

    def disturbed(self, probe: float) -> bool:
        """Whether something else ran when the probe took that long [s]."""
        return probe > SLOWER * self.usual

    def probe(self) -> float:
        """Seconds of the probe now, the median of a few."""
        samples = []
        for _ in range(_CALLS):
            began = self._clock()
            self._probe()
            samples.append(self._clock() - began)
        self._probes.append(statistics.median(samples))
        return self._probes[-1]

    def wait(self) -> float:
        """Returns when the machine is quiet or the patience is over: the last probe [s]. `waited` sums the seconds that went by [s]."""
        began = self._clock()
        while self.disturbed(latest := self.probe()) and self._clock() - began < self.patience:
            self._sleep(_PAUSE)
        self.waited += self._clock() - began
        return latest

    def between(self, run: Callable[[], Result]) -> tuple[Result, float]:
        """(what `run` returns, the slower of a probe before it and one after it [s]). Does not wait."""
        before = self.probe()
        result = run()
        return result, max(before, self.probe())

    def undisturbed(self, seconds: Sequence[float], probes: Sequence[float]) -> list[float]:
        """Those of `seconds` whose probe shows a quiet machine, or the `_LEAST_LAPS` with the fastest probes where fewer do: one lap alone
        may still have been hit between its probes."""
        ranked = sorted(zip(probes, seconds, strict=True))
        quiet = sum(not self.disturbed(probe) for probe, _ in ranked)
        return [taken for _, taken in ranked[: max(quiet, _LEAST_LAPS)]]


@contextmanager
def quiet_machine(patience: float = 1.0) -> Iterator[QuietMachine]:
    """One whose probe is a short chain of matrix products in onnxruntime, on all cores. Its threads sleep between probes."""
    chain = Chain()
    x = chain.input(192, 320)
    for _ in range(4):
        x = chain.node("MatMul", x, chain.weight(320, 320))
    probe = chain.done("matmul", "probe", x)
    with open_session(ir.from_proto(probe.model), optimize=False) as session:
        yield QuietMachine(lambda: session.run(None, dict(probe.feeds)), patience)
