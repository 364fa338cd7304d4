"""A calibration of a few small kernels whose seconds follow a law that is made up, so that it takes no time."""

from itertools import chain

from szilard.rewriter import calibrate_cpu, microbenchmarks_elementwise
from szilard.rewriter.microbenchmark_graph import Chain, Microbenchmark

KERNELS = ("unary", "reshape", "squeeze")


def unary(count: int, size: int) -> Microbenchmark:
    """`count` changes of sign of `size` numbers."""
    graph = Chain()
    x = graph.input(size)
    for _ in range(count):
        x = graph.node("Neg", x)
    return graph.done("unary", f"Neg {size} {count}", x)


def benchmarks():
    """Six views and six changes of sign."""
    views = (
        b for count in (4, 40, 160) for b in microbenchmarks_elementwise._calls(count) if b.kernel in ("reshape", "squeeze")
    )
    return chain(views, (unary(count, size) for count in (2, 9) for size in (16, 1000, 100_000)))


def use(monkeypatch) -> list[str]:
    """Makes `calibrate_cpu` time those, by a law: 10 us a run, 0.5 us a view, 1 us and 0.01 ns a byte for each Neg. Returns the list that
    the names go to."""
    calls: list[str] = []

    def timed(benchmark: Microbenchmark) -> float:
        calls.append(benchmark.name)
        nodes = benchmark.model.graph.node
        size = sum(array.nbytes for array in benchmark.feeds.values())
        laws = {"Neg": 1e-6 + 2e-11 * size, "Slice": 1e-6}
        return 1e-5 + sum(laws.get(node.op_type, 5e-7) for node in nodes)

    monkeypatch.setattr(calibrate_cpu, "microbenchmarks", benchmarks)
    monkeypatch.setattr(calibrate_cpu, "timed", timed)
    return calls
