"""Where to serve a decoder: how many sequences at once fit in memory and in a latency, and how many cost the fewest joules a token.

Prices come from outside as a function of the batch. The paper's B* (Theorem 4.2) is here as a heuristic: its
proof minimises E(B) / B, which falls with B, so the operating point is the cheapest batch that memory and latency allow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import floor, sqrt

from .compulsory import needed_reads
from .cost import Cost
from .counts_traffic import SILENT, root, value_bytes
from .device import Device
from .errors import InputError
from .net import Net


@dataclass(frozen=True)
class OperatingPoint:
    """One batch: `seconds` [s] of a step, in which every sequence gains a token, `joules` [J] a token, of which `static` [J], and the
    bytes of weights and caches that a step must read from memory, `read` [B]."""

    batch: int
    seconds: float
    joules: float
    static: float
    read: float

    @property
    def tokens_per_second(self) -> float:
        """Tokens of all sequences together [1/s]."""
        return self.batch / self.seconds

    @property
    def trilemma(self) -> float:
        """Latency x joules a token / throughput [J s^2], the left side of Theorem 4.2."""
        return self.seconds * self.joules / self.tokens_per_second

    def trilemma_floor(self, device: Device) -> float:
        """The least that product can be [J s^2] where Q bytes must be read: (Q / bandwidth)^2 e Q / B^2. The printed right side,
        p e / bandwidth, has other units (J s)."""
        fastest = self.read / device.values["bandwidth.memory"]
        return fastest**2 * device.values["byte.memory"] * self.read / self.batch**2


Price = Callable[[int], OperatingPoint]


def operating_point(batch: int, net: Net, cost: Cost) -> OperatingPoint:
    """The point of a step that costs `cost` for `batch` sequences, whose decode net is `net`."""
    return OperatingPoint(batch, cost.seconds, cost.joules / batch, cost.terms["static"] / batch, constant_bytes(net))


def constant_bytes(net: Net) -> float:
    """Bytes of constants, weights and caches, that any run of `net` must read [B], each once."""
    read: dict[str, float] = {}
    for op in net.ops.values():
        for name, size in needed_reads(op, net).items() if op.kind not in SILENT else ():
            source = root(name, net)
            if source in net.values and net.values[source].constant:
                read[source] = max(read.get(source, 0.0), size)
    return sum(read.values())


def largest_batch(memory: float, weights: float, overhead: float, cache: float) -> int:
    """B_max of Remark 4.1 with all bytes [B] given: the sequences whose caches fit beside weights and overhead. InputError where none
    does."""
    room = memory - weights - overhead
    if room < 0:
        raise InputError(
            f"Weights of {_size(weights)} and an overhead of {_size(overhead)} do not fit in {_size(memory)} of memory; "
            "take a larger device or --memory, fewer bits a weight, or a smaller --overhead."
        )
    if room < cache:
        raise InputError(
            f"{_size(room)} of memory are left beside the weights, and the cache of one sequence takes {_size(cache)}; "
            "take a shorter --context, a larger device or --memory, or a smaller --overhead."
        )
    return floor(room / cache)


def _size(amount: float) -> str:
    """Bytes in three digits."""
    step, prefix = next((each for each in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if amount >= each[0]), (1.0, ""))
    return f"{amount / step:.3g} {prefix}B"


def heuristic_batch(parameters: float, context: int, width: int) -> float:
    """The paper's B* = sqrt(p / (N d)) (Theorem 4.2; `width` d is that of one head in its Table 4). A heuristic: no joules are least
    there."""
    return sqrt(parameters / (context * width))


def doubling(limit: int) -> tuple[int, ...]:
    """1, 2, 4, ... and `limit` itself."""
    return (*(2**power for power in range(limit.bit_length()) if 2**power < limit), limit)


def largest_within(price: Price, limit: int, latency: float) -> int:
    """The largest batch up to `limit` whose step takes at most `latency` [s]; 0 if even one sequence takes longer. Seconds must not fall
    as the batch grows, which holds for a roofline: then this is exact."""
    if price(limit).seconds <= latency:
        return limit
    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if price(middle).seconds <= latency else (low, middle)
    return low


def cheapest(price: Price, limit: int, breaks: Iterable[int] = ()) -> OperatingPoint:
    """The batch from 1 to `limit` with the fewest joules a token, the smallest of equals.

    Joules of a step are a maximum of straight lines in the batch between `breaks`, the batches after which a price jumps (a value
    leaves the cache); divided by the batch such a stretch falls, then rises. So the ends of all stretches are priced, with the powers of
    two, and the neighbourhood of the best of them is searched by thirds. Where operands outgrow a core they are read again in small steps
    besides: the batch found then costs up to a thousandth more than the best one (seen on nets with cores of a few kB).
    """
    edges = {batch for edge in breaks for batch in (edge, edge + 1) if 1 <= batch <= limit}
    known = sorted({*doubling(limit), *edges})
    points = [price(batch) for batch in known]
    best = min(range(len(known)), key=lambda index: (points[index].joules, known[index]))
    candidates = [points[best]]
    for low, high in ((max(best - 1, 0), best), (best, min(best + 1, len(known) - 1))):
        candidates.append(_by_thirds(price, known[low], known[high]))
    return min(candidates, key=lambda point: (point.joules, point.batch))


def _by_thirds(price: Price, low: int, high: int) -> OperatingPoint:
    """The least of a function that falls and then rises between two batches."""
    while high - low > 3:
        third = (high - low) // 3
        left, right = low + third, high - third
        low, high = (low, right) if price(left).joules <= price(right).joules else (left, high)
    return min((price(batch) for batch in range(low, high + 1)), key=lambda point: (point.joules, point.batch))


def spill_batches(net: Net, device: Device) -> tuple[int, ...]:
    """The batches after which some computed value of `net`, the decode net of one sequence, leaves the cache, so that the price of a step
    jumps (see `price.bytes_by_level`)."""
    room = device.values["capacity.cache"] / 2.0
    sizes = {value_bytes(name, net) or 0.0 for name, value in net.values.items() if not value.constant}
    return tuple(sorted({floor(room / size) for size in sizes if 0 < size <= room}))
