"""Seconds of each node of a torch.fx graph: the graph is interpreted, and a clock runs while a node's own operator does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Interpreter, Node

from .op_times import OpTimes

WARM_RUNS = 2
HOW = "a clock around each operator"
HOW_CUDA = "CUDA events around each operator, which see a launch that comes late"


def torch_op_seconds(graph: GraphModule, inputs: Sequence[torch.Tensor], runs: int) -> OpTimes:
    """Seconds of the nodes of `graph` that call something, by name, in `runs` calls on `inputs`, which lie on the graph's own device.

    The interpreter's own work is left out. On a card a node lasts from the event before its kernels to the event behind them.
    """
    on_card = _on_card(inputs)
    clock = _EventClock() if on_card else _HostClock()
    samples: dict[str, list[float]] = {}
    for turn in range(WARM_RUNS + runs):
        with torch.inference_mode():
            _Timed(graph, clock).run(*inputs)
        for name, seconds in clock.read().items():
            if turn >= WARM_RUNS:
                samples.setdefault(name, []).append(seconds)
    return OpTimes({name: tuple(found) for name, found in samples.items()}, 0.0, HOW_CUDA if on_card else HOW)


def _on_card(inputs: Sequence[torch.Tensor]) -> bool:
    return any(tensor.is_cuda for tensor in inputs)


class _HostClock:
    """The processor's clock: an operator is done when its call returns."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def time(self, name: str, call: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = call()
        self._seconds[name] = time.perf_counter() - began
        return result

    def read(self) -> dict[str, float]:
        """The seconds since the last read, by node."""
        found, self._seconds = self._seconds, {}
        return found


class _EventClock:
    """Events in the card's own queue, read when the whole call is done."""

    def __init__(self) -> None:
        self._events: dict[str, tuple[Any, Any]] = {}

    def time(self, name: str, call: Callable[[], Any]) -> Any:
        before, behind = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        result = call()
        behind.record()
        self._events[name] = (before, behind)
        return result

    def read(self) -> dict[str, float]:
        """As above; waits for the card."""
        torch.cuda.synchronize()
        found, self._events = self._events, {}
        return {name: before.elapsed_time(behind) * 1e-3 for name, (before, behind) in found.items()}


class _Timed(Interpreter):
    def __init__(self, graph: GraphModule, clock: _HostClock | _EventClock) -> None:
        super().__init__(graph)
        self._clock, self._name = clock, ""

    def run_node(self, n: Node) -> Any:
        self._name = n.name
        return super().run_node(n)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self._clock.time(self._name, lambda: super(_Timed, self).call_function(target, args, kwargs))

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self._clock.time(self._name, lambda: super(_Timed, self).call_method(target, args, kwargs))

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self._clock.time(self._name, lambda: super(_Timed, self).call_module(target, args, kwargs))
