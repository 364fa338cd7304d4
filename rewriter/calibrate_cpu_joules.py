"""Joules of a processor that has an energy counter: a few of the microbenchmarks again, in windows of that counter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import onnx_ir as ir
from rich.console import Console
from rich.progress import track

from ..cost_model.measurement import Measurement
from ..cost_model.meter import Meter
from .microbenchmark_graph import Microbenchmark
from .runtime_onnx import open_session

KERNELS = ("matmul", "matmul_integer.dynamic", "binary", "softmax", "reshape", "transpose")
"""Those that lean on different terms: arithmetic in two dtypes, bytes inside and outside the caches, calls."""

EACH = 5
EFFORT: dict[str, Any] = {
    "half_width": 0.02,
    "least_seconds": 0.3,
    "most_seconds": 2.5,
    "warm_seconds": 0.3,
    "settle_seconds": 0.1,
}
"""Five windows of a counter that ticks every millisecond or so: some three seconds for each of the microbenchmarks."""


def joule_rows(meter: Meter, benchmarks: Iterable[Microbenchmark], rows: Mapping[str, Any], device: str) -> list[Measurement]:
    """Seconds and joules of one call of a spread of `benchmarks`; `rows` holds the work of each by name. A reading that the meter refuses
    keeps its reason."""
    wanted = set(_spread([name for name in rows if name.partition(":")[0] in KERNELS]))
    chosen = [b for b in benchmarks if f"{b.kernel}: {b.name}" in wanted]
    found = []
    for benchmark in track(chosen, "reading joules", console=Console(stderr=True)):
        name = f"{benchmark.kernel}: {benchmark.name}"
        with open_session(ir.from_proto(benchmark.model), optimize=False) as session:
            run: Callable[[], object] = _call(session, benchmark)
            reading = meter.energy(run, name=name, **EFFORT)
        if reading.joules is None or reading.seconds is None:
            continue
        row = Measurement(
            name, benchmark.kernel, "op", rows[name]["work"], reading.seconds, reading.seconds, reading.seconds,
            reading.joules, reading.low, reading.high, reading.label, device=device,
        )  # fmt: skip
        found.append(row)
    return found


def _call(session: Any, benchmark: Microbenchmark) -> Callable[[], object]:
    return lambda: session.run(None, dict(benchmark.feeds))


def _spread(names: Sequence[str]) -> list[str]:
    """At most `EACH` names of each kernel, from its first to its last."""
    kernels: dict[str, list[str]] = {}
    for name in names:
        kernels.setdefault(name.partition(":")[0], []).append(name)
    picked = []
    for found in kernels.values():
        count = min(EACH, len(found))
        picked += [found[i * (len(found) - 1) // max(1, count - 1)] for i in range(count)]
    return picked
