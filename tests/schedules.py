"""Schedules of matmul, convolution and attention on a machine that counts words, the same counts in closed form, and the best tiles.

The word-level runs prove the closed forms: they compute with what is in fast memory and nothing else, and their results are checked.
"""

from collections.abc import Iterable, Iterator
from itertools import product
from math import ceil, exp, inf

import numpy as np


class Machine:
    """Arrays in slow memory and at most `size` words in fast memory; `moved` counts loads and stores."""

    def __init__(self, size: int, **slow: np.ndarray) -> None:
        self.size, self.slow, self.moved = size, slow, 0
        self.fast: dict[tuple, float] = {}

    def load(self, *word) -> None:
        self.moved += 1
        self.put(*word, number=float(self.slow[word[0]][word[1:]]))

    def put(self, *word, number: float = 0.0) -> None:
        self.fast[word] = number
        assert len(self.fast) <= self.size, f"more than {self.size} words in fast memory"

    def store(self, *word) -> None:
        self.moved += 1
        self.slow[word[0]][word[1:]] = self.fast.pop(word)

    def drop(self, *word) -> None:
        del self.fast[word]


def tiles(size: int, tile: int) -> list[range]:
    return [range(start, min(size, start + tile)) for start in range(0, size, tile)]


def run_matmul(machine: Machine, rows: int, columns: int) -> None:
    """c = a b with `rows` x `columns` sums kept, a column of a and one element of b at a time."""
    a, b = machine.slow["a"], machine.slow["b"]
    for tile in product(tiles(a.shape[0], rows), tiles(b.shape[1], columns)):
        for i, j in product(*tile):
            machine.put("c", i, j)
        for k in range(a.shape[1]):
            for i in tile[0]:
                machine.load("a", i, k)
            for j in tile[1]:
                machine.load("b", k, j)
                for i in tile[0]:
                    machine.fast["c", i, j] += machine.fast["a", i, k] * machine.fast["b", k, j]
                machine.drop("b", k, j)
            for i in tile[0]:
                machine.drop("a", i, k)
        for i, j in product(*tile):
            machine.store("c", i, j)


def matmul_schedule(m: int, n: int, k: int, rows: int, columns: int) -> tuple[int, int]:
    """(words moved, words of fast memory) of `run_matmul`."""
    return m * n + m * k * ceil(n / columns) + k * n * ceil(m / rows), rows * columns + rows + 1


def least(schedules: Iterable[tuple[int, int]], fast: float) -> float:
    """The fewest words of the schedules that fit in `fast` words."""
    return min((words for words, held in schedules if held <= fast), default=inf)


def best_matmul(m: int, n: int, k: int, fast: int) -> float:
    """The best rectangle of sums, kept rows first or columns first."""
    sizes = list(product(range(1, min(m, fast) + 1), range(1, min(n, fast) + 1)))
    straight = (matmul_schedule(m, n, k, *size) for size in sizes)
    turned = (matmul_schedule(n, m, k, *size[::-1]) for size in sizes)
    return min(least(straight, fast), least(turned, fast), whole(m * k + k * n + m * n, fast))


def whole(compulsory: int, fast: int) -> float:
    """The schedule that keeps everything, if it fits."""
    return compulsory if compulsory <= fast else inf


class Conv:
    """A plain 2-D convolution of one image: `channels` to `made` channels, a square kernel, zero padding; groups share no channel."""

    def __init__(self, channels, made, height, width, kernel, stride=1, pad=0, dilation=1, groups=1) -> None:
        self.inner, self.made, self.groups = channels // groups, made, groups
        self.kernel, self.stride, self.pad, self.dilation = kernel, stride, pad, dilation
        self.x, self.w = (channels, height, width), (made, self.inner, kernel, kernel)
        self.y = (made, self.out(height), self.out(width))

    def out(self, size: int) -> int:
        return (size + 2 * self.pad - self.dilation * (self.kernel - 1) - 1) // self.stride + 1

    def meets(self, place: int, tap: int, size: int) -> int | None:
        """The element under a tap, None on padding."""
        element = place * self.stride + tap * self.dilation - self.pad
        return element if 0 <= element < size else None

    def patch(self, places: range, axis: int) -> set[int]:
        """The elements of one axis that windows at `places` meet."""
        met = {self.meets(place, tap, self.x[axis]) for place in places for tap in range(self.kernel)}
        return {element for element in met if element is not None}

    @property
    def compulsory(self) -> int:
        """Input elements that some window meets, taps that meet any, and outputs."""
        met = [len(self.patch(range(self.y[axis]), axis)) for axis in (1, 2)]
        taps = [len({tap for _, tap in self.pairs(axis)}) for axis in (1, 2)]
        return self.x[0] * met[0] * met[1] + self.made * self.inner * taps[0] * taps[1] + int(np.prod(self.y))

    def pairs(self, axis: int) -> list[tuple[int, int]]:
        places = product(range(self.y[axis]), range(self.kernel))
        return [(place, tap) for place, tap in places if self.meets(place, tap, self.x[axis]) is not None]

    @property
    def products(self) -> int:
        """Multiplications of an element, not of padding."""
        return self.made * self.inner * len(self.pairs(1)) * len(self.pairs(2))


def run_conv(machine: Machine, conv: Conv, made: int, rows: int, columns: int) -> None:
    """Sums of `made` x `rows` x `columns` outputs kept; for each input channel a patch of it, and one weight at a time."""
    each = conv.made // conv.groups
    for group, channels in enumerate(tiles(conv.made, each)):
        spans = product(tiles(each, made), tiles(conv.y[1], rows), tiles(conv.y[2], columns))
        for some, places_y, places_x in spans:
            tile = list(product([channels[c] for c in some], places_y, places_x))
            for place in tile:
                machine.put("y", *place)
            for inner in range(conv.inner):
                patch = list(product([group * conv.inner + inner], conv.patch(places_y, 1), conv.patch(places_x, 2)))
                for word in patch:
                    machine.load("x", *word)
                for c, r, q in product({place[0] for place in tile}, range(conv.kernel), range(conv.kernel)):
                    machine.load("w", c, inner, r, q)
                    for _, i, j in (place for place in tile if place[0] == c):
                        row, column = conv.meets(i, r, conv.x[1]), conv.meets(j, q, conv.x[2])
                        if row is not None and column is not None:
                            x = machine.fast["x", group * conv.inner + inner, row, column]
                            machine.fast["y", c, i, j] += x * machine.fast["w", c, inner, r, q]
                    machine.drop("w", c, inner, r, q)
                for word in patch:
                    machine.drop("x", *word)
            for place in tile:
                machine.store("y", *place)


def conv_schedules(conv: Conv, made: int, rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """(words moved, words of fast memory) of `run_conv`; of the same with the weights of a channel kept and inputs one by one; and with all
    weights of `made` channels kept over the whole image, inputs one by one."""
    each = conv.made // conv.groups
    high, wide = ([len(conv.patch(span, axis)) for span in tiles(conv.y[axis], t)] for axis, t in ((1, rows), (2, columns)))
    taps, outputs, turns = conv.kernel**2, int(np.prod(conv.y)), ceil(each / made)
    inputs = conv.x[0] * sum(high) * sum(wide) * turns
    weights = conv.made * conv.inner * taps
    sums = min(made, each) * min(rows, conv.y[1]) * min(columns, conv.y[2])
    again = outputs + inputs + weights * len(high) * len(wide)
    yield again, sums + max(high) * max(wide) + 1
    yield again, sums + min(made, each) * taps + 1
    yield outputs + inputs + weights, sums + min(made, each) * conv.inner * taps + 1


def best_conv(
    conv: Conv, fast: int, sizes: Iterable[int] = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 48, 64)
) -> float:
    """The best block of outputs with sides from `sizes`, and of the three ways to feed it."""
    sides = [[size for size in sizes if size <= limit] for limit in (conv.made // conv.groups, *conv.y[1:])]
    blocks = (block for block in product(*sides) if np.prod(block) < fast)
    fed = (schedule for block in blocks for schedule in conv_schedules(conv, *block))
    return min(least(fed, fast), whole(int(np.prod(conv.x) + np.prod(conv.w) + np.prod(conv.y)), fast))


def run_attention(machine: Machine, rows: int, causal: bool) -> None:
    """o = softmax(q k^T) v with `rows` rows of q, o and their weight sums kept, and one element of k or v at a time (FlashAttention)."""
    (length, depth), values = machine.slow["q"].shape, machine.slow["v"].shape[1]
    for tile in tiles(length, rows):
        for i in tile:
            machine.put("sum", i)
            for c in range(depth):
                machine.load("q", i, c)
            for c in range(values):
                machine.put("o", i, c)
        for j in range(tile[-1] + 1 if causal else len(machine.slow["k"])):
            seen = [i for i in tile if i >= j or not causal]
            for i in seen:
                machine.put("s", i)
            for c in range(depth):
                machine.load("k", j, c)
                for i in seen:
                    machine.fast["s", i] += machine.fast["q", i, c] * machine.fast["k", j, c]
                machine.drop("k", j, c)
            for i in seen:
                machine.fast["s", i] = exp(machine.fast["s", i])
                machine.fast["sum", i] += machine.fast["s", i]
            for c in range(values):
                machine.load("v", j, c)
                for i in seen:
                    machine.fast["o", i, c] += machine.fast["s", i] * machine.fast["v", j, c]
                machine.drop("v", j, c)
            for i in seen:
                machine.drop("s", i)
        for i in tile:
            for c in range(values):
                machine.fast["o", i, c] /= machine.fast["sum", i]
                machine.store("o", i, c)
            for c in range(depth):
                machine.drop("q", i, c)
            machine.drop("sum", i)


def attention_schedule(length: int, keys: int, depth: int, values: int, rows: int, causal: bool = False) -> tuple[int, int]:
    """(words moved, words of fast memory) of `run_attention`."""
    read = sum(tile[-1] + 1 if causal else keys for tile in tiles(length, rows))
    return length * (depth + values) + read * (depth + values), min(rows, length) * (depth + values + 2) + 1


def blocked_schedule(
    length: int, keys: int, depth: int, values: int, rows: int, columns: int, causal: bool = False
) -> tuple[int, int]:
    """(words moved, words of fast memory) with a block of scores kept: q and k pass by column by column, then v and the rows of o (with the
    sum of weights as one more column), which are stored and loaded again for each block."""
    words = 0
    for tile in tiles(length, rows):
        blocks = [block for block in tiles(keys, columns) if not causal or block[0] <= tile[-1]]
        words += sum(len(tile) * depth + len(block) * (depth + values) for block in blocks)
        words += len(tile) * (2 * (len(blocks) - 1) * (values + 1) + values)
    return words, rows * columns + 2 * rows + 1


def best_attention(length: int, keys: int, depth: int, values: int, fast: int, causal: bool = False) -> float:
    """The best tile of either schedule, or everything kept."""
    flash = (attention_schedule(length, keys, depth, values, rows, causal) for rows in range(1, length + 1))
    sides = [side for side in range(1, max(length, keys) + 1) if side <= 16 or side % 8 == 0]
    blocks = [(r, c) for r, c in product(sides, sides) if r * c + 2 * r < fast and r <= length and c <= keys]
    blocked = (
        blocked_schedule(length, keys, depth, values, *block, causal) for block in blocks if block[0] * block[1] > fast / 3
    )
    everything = (length + keys) * (depth + values) + 2 * length + 1
    return min(least(flash, fast), least(blocked, fast), (length + keys) * (depth + values) if everything <= fast else inf)
