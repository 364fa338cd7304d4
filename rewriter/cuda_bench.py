"""`CudaBench`: cases on a CUDA card, as CUDA graphs where they can be captured, measured by the card's own counter."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

from ..cost_model.errors import InputError
from ..cost_model.idle_states import IdleStates, measure_idle
from ..cost_model.meter import Meter, open_meter
from .energy_case import EnergyCase

_WARM_CALLS = 3
_SPIN_CYCLES = 10_000_000
SPIN_SECONDS = 1e-3


class CudaBench:
    """The card `card` ("cuda:0") and its meter. The meter is opened first: until `device` is asked for, no context is.

    float32 means float32: TF32 is off while cases are opened and run. A pause is a kernel of one thread that spins, so that clocks stay up.
    """

    def __init__(self, card: str = "cuda:0") -> None:
        self.card = card
        self.meter: Meter = open_meter(card)
        self._device = ""
        self._cycles = 0.0
        self._held: list[Any] = []

    @property
    def device(self) -> str:
        """The name of the card, from its counter if it has one: PyTorch would open a context. Raises InputError where there is no card."""
        if not self._device:
            counter = self.meter.counter
            self._device = (counter.sensors().device if counter else "") or card_name(self.card)
        return self._device

    @property
    def driver(self) -> str:
        """The version of the driver as the counter's library gives it, "" without a counter."""
        return self.meter.counter.sensors().driver if self.meter.counter else ""

    def idle(self) -> IdleStates:
        """The three idle states. Deep idle is missing where this process has a context already."""
        fresh = not torch.cuda.is_initialized()
        return measure_idle(
            self.meter, open_context=self._open_context if fresh else None, spin=self._spin, synchronise=self.synchronise
        )

    def open(self, case: EnergyCase) -> Callable[[], object]:
        """One call of `case`: a graph of all its repeats and its pause, or plain calls where that cannot be captured."""
        self._check()
        once = case.build(self.card)
        cycles = int(case.pause * self._cycles_per_second()) if case.pause else 0

        def call() -> None:
            with torch.inference_mode(), _plain_float32():
                for _ in range(case.repeats):
                    once()
                if cycles:
                    torch.cuda._sleep(cycles)

        self._warm(call)
        with suppress(RuntimeError):
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                call()
            graph.replay()
            self.synchronise()
            self._held.append((graph, once))
            return graph.replay
        # What a capture that failed left in the queue must not run into the next call.
        self.synchronise()
        return call

    def synchronise(self) -> None:
        """Waits for the card."""
        torch.cuda.synchronize(self.card)

    def release(self) -> None:
        """Frees graphs and operands."""
        self._held.clear()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def _warm(self, call: Callable[[], object]) -> None:
        """First calls on a stream of their own, as capture asks for: kernels are compiled and libraries choose algorithms."""
        stream = torch.cuda.Stream(self.card)
        stream.wait_stream(torch.cuda.current_stream(self.card))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_CALLS):
                call()
        torch.cuda.current_stream(self.card).wait_stream(stream)
        self.synchronise()

    def _check(self) -> None:
        name = card_name(self.card)
        if name != self.device:
            raise InputError(
                f"{self.card} is {name} to PyTorch, and the counter is that of {self.device}; set CUDA_DEVICE_ORDER=PCI_BUS_ID, "
                "so that both count cards alike."
            )
        torch.cuda.set_device(self.card)

    def _open_context(self) -> object:
        return torch.zeros(1, device=self.card)

    def _spin(self) -> None:
        torch.cuda._sleep(int(SPIN_SECONDS * self._cycles_per_second()))

    def _cycles_per_second(self) -> float:
        """Cycles that a spinning kernel counts in a second, measured once."""
        if not self._cycles:
            began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda._sleep(_SPIN_CYCLES)
            began.record()
            torch.cuda._sleep(_SPIN_CYCLES)
            ended.record()
            self.synchronise()
            self._cycles = _SPIN_CYCLES / (began.elapsed_time(ended) * 1e-3)
        return self._cycles


def card_name(card: str) -> str:
    """PyTorch's name of `card`. Raises InputError where PyTorch sees no such card."""
    index = int(card.partition(":")[2] or 0)
    if not torch.cuda.is_available():
        raise InputError(f"PyTorch finds no CUDA card here, so that {card} cannot be measured; run this on a machine with one.")
    if index >= torch.cuda.device_count():
        raise InputError(f"There is no {card}; PyTorch finds {torch.cuda.device_count()} card(s).")
    return torch.cuda.get_device_name(index)


def _plain_float32() -> Any:
    """Convolutions use TF32 by default, products do not."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False)
