"""All microbenchmarks of onnxruntime's kernels on a CPU, and how one of them is timed and counted."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import onnx_ir as ir

from ..cost_model.device import Device
from ..cost_model.kernel_times import caches
from ..cost_model.kernel_work import net_work, total_work
from ..cost_model.measurement import work_of
from ..cost_model.price import price_net
from ..cost_model.view_onnx import view_onnx
from .microbenchmark_graph import Microbenchmark
from .microbenchmarks_conv import convolution_microbenchmarks
from .microbenchmarks_dense import dense_microbenchmarks
from .microbenchmarks_elementwise import elementwise_microbenchmarks
from .runtime_onnx import open_session

_SECONDS, _LEAST_CALLS = 0.02, 3


def microbenchmarks() -> Iterator[Microbenchmark]:
    """Every one, made when it is asked for: some hold 100 MB of weights."""
    return chain(dense_microbenchmarks(), convolution_microbenchmarks(), elementwise_microbenchmarks())


def timed(benchmark: Microbenchmark) -> float:
    """Median seconds of one call on the CPU provider, its optimiser off, so that the nodes run as they were written.

    Threads are woken for each call: with threads that wait awake, one kernel in a tight loop is 15 to 20 % faster than inside a model."""
    with open_session(ir.from_proto(benchmark.model), optimize=False) as session:
        session.run(None, dict(benchmark.feeds))
        samples: list[float] = []
        began = time.perf_counter()
        while len(samples) < _LEAST_CALLS or time.perf_counter() - began < _SECONDS:
            start = time.perf_counter()
            session.run(None, dict(benchmark.feeds))
            samples.append(time.perf_counter() - start)
    return statistics.median(samples)


def counted(benchmark: Microbenchmark, device: Device, sizes: Sequence[float]) -> dict[str, Any]:
    """{"kernels": {str(size): {"<kernel>.<feature>": amount}}, "work": {coefficient key: amount}} of one call, counted as a model's would
    be, for each of the `sizes` that the last cache may be believed to hold [B]."""
    shapes = {name: tuple(array.shape) for name, array in benchmark.feeds.items()}
    net = view_onnx(ir.from_proto(benchmark.model), shapes, dict(benchmark.feeds))
    near = caches(device)[0]
    kernels = {str(size): total_work(net_work(net, (near, size))) for size in sizes}
    return {"kernels": kernels, "work": work_of(price_net(net, device).total)}
