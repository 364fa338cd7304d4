"""`QuietMachine`: waits until a probe runs at its usual speed: others on a shared machine slow it by up to two for seconds at a time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import onnx_ir as ir

from .microbenchmark_graph import Chain
from .runtime_onnx import open_session

SLOWER = 1.15
"""A probe this much above the fastest one seen says that something else runs: on an idle machine its medians lay within a tenth."""

_CALLS, _PAUSE, _BASELINE = 3, 0.05, 1.0


class QuietMachine:
    """`probe` takes about a millisecond on all cores. `patience` is how long `wait` may wait before it gives up, once [s]."""

    def __init__(
        self, probe: Callable[[], object], patience: float = 1.0, clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self._probe, self._clock, self._sleep = probe, clock, sleep
        self.patience, self.waited = patience, 0.0
        self.fastest = float("inf")
        self.taken: list[float] = []
        began = clock()
        while clock() - began < _BASELINE:
            self._disturbed()

    def wait(self) -> bool:
        """Returns when the machine is quiet, True, or the patience is over, False; `waited` sums the seconds that went by [s]."""
        began = self._clock()
        quiet = not self._disturbed()
        while not quiet and self._clock() - began < self.patience:
            self._sleep(_PAUSE)
            quiet = not self._disturbed()
        self.waited += self._clock() - began
        self.taken.append(self._latest)
        return quiet

    @property
    def seconds(self) -> float:
        """The median of what the probe took when `wait` returned: how fast the machine was at what was timed then [s]."""
        return statistics.median(self.taken) if self.taken else self.fastest

    def _disturbed(self) -> bool:
        samples = []
        for _ in range(_CALLS):
            began = self._clock()
            self._probe()
            samples.append(self._clock() - began)
        self._latest = statistics.median(samples)
        self.fastest = min(self.fastest, self._latest)
        return self._latest > SLOWER * self.fastest


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
