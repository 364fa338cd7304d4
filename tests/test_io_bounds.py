"""Bounds on traffic hold below every schedule that is tried, twice the bound does not, and the printed formula is no bound."""

from collections import OrderedDict
from itertools import product
from math import prod

import numpy as np
import pytest

from szilard.cost_model.io_bounds import attention_words, conv_words, edge_depth_heuristic, matmul_words
from szilard.cost_model.window_axes import window_axis

from . import schedules
from .schedules import Conv, Machine

RNG = np.random.default_rng(0)


class Cache:
    """A fully associative memory of `size` words that drops the one not used for longest, and counts the words it moves."""

    def __init__(self, size: int) -> None:
        self.size, self.moved = size, 0
        self.held: OrderedDict[tuple, bool] = OrderedDict()

    def touch(self, word, *, fresh=False, write=False):
        """A fresh word needs no load, a written one is stored when it is dropped."""
        if word in self.held:
            write = self.held.pop(word) or write
        elif not fresh:
            self.moved += 1
        self.held[word] = write
        if len(self.held) > self.size:
            _, dirty = self.held.popitem(last=False)
            self.moved += dirty

    def flush(self):
        return self.moved + sum(self.held.values())


def cached_matmul(n, fast, tile):
    cache, begun = Cache(fast), set()
    for i0 in range(0, n, tile):
        for j0 in range(0, n, tile):
            for k in range(n):
                for i in range(i0, min(n, i0 + tile)):
                    cache.touch(("a", i, k))
                    for j in range(j0, min(n, j0 + tile)):
                        cache.touch(("b", k, j))
                        cache.touch(("c", i, j), fresh=(i, j) not in begun, write=True)
                        begun.add((i, j))
    return cache.flush()


@pytest.mark.parametrize("n", [5, 9, 14])
@pytest.mark.parametrize("fast", [12, 20, 40, 110])
def test_matmul_bound_holds_below_every_tiling_in_a_cache(n, fast):
    assert matmul_words(n**3, fast) <= min(cached_matmul(n, fast, tile) for tile in (1, 2, 3, 4, 5, 9))


@pytest.mark.parametrize(("m", "n", "k", "rows", "columns"), [(5, 7, 3, 2, 3), (4, 6, 5, 4, 2), (1, 3, 4, 1, 3)])
def test_the_counted_matmul_is_one_that_runs(m, n, k, rows, columns):
    words, held = schedules.matmul_schedule(m, n, k, rows, columns)
    a, b = RNG.standard_normal((m, k)), RNG.standard_normal((k, n))
    machine = Machine(held, a=a, b=b, c=np.zeros((m, n)))
    schedules.run_matmul(machine, rows, columns)
    np.testing.assert_allclose(machine.slow["c"], a @ b)
    assert machine.moved == words


SMALL_CONVS = [
    Conv(2, 3, 7, 5, 3, pad=1),
    Conv(4, 6, 7, 9, 3, stride=2, pad=1, groups=2),
    Conv(3, 2, 9, 8, 2, stride=3),
    Conv(4, 4, 8, 7, 3, pad=2, dilation=2, groups=4),
]


@pytest.mark.parametrize("conv", SMALL_CONVS, ids=lambda conv: f"{conv.x}-{conv.w}")
def test_the_counted_convolution_is_one_that_runs(conv):
    block = (2, 2, 3)
    words, held = next(schedules.conv_schedules(conv, *block))
    x, w = RNG.standard_normal(conv.x), RNG.standard_normal(conv.w)
    machine = Machine(held, x=x, w=w, y=np.zeros(conv.y))
    schedules.run_conv(machine, conv, *block)
    assert machine.moved == words
    wanted = np.zeros(conv.y)
    for (i, r), (j, q) in product(conv.pairs(1), conv.pairs(2)):
        seen = x[:, conv.meets(i, r, conv.x[1]), conv.meets(j, q, conv.x[2])].reshape(conv.groups, -1)
        wanted[:, i, j] += np.einsum("gmc,gc->gm", w[:, :, r, q].reshape(conv.groups, -1, conv.inner), seen).ravel()
    np.testing.assert_allclose(machine.slow["y"], wanted)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 7])
def test_the_counted_attention_is_one_that_runs(rows, causal):
    length, keys, depth, values = 7, 7 if causal else 5, 3, 2
    words, held = schedules.attention_schedule(length, keys, depth, values, rows, causal)
    q, k, v = (RNG.standard_normal(shape) for shape in ((length, depth), (keys, depth), (keys, values)))
    machine = Machine(held, q=q, k=k, v=v, o=np.zeros((length, values)))
    schedules.run_attention(machine, rows, causal)
    weights = np.exp(q @ k.T) * (np.tri(length, keys) if causal else 1.0)
    np.testing.assert_allclose(machine.slow["o"], weights / weights.sum(-1, keepdims=True) @ v)
    assert machine.moved == words


def matmul_cases():
    for (m, n, k), fast in product([(5, 7, 3), (30, 30, 30), (64, 40, 51), (1, 200, 90)], [4, 8, 24, 61, 120, 400]):
        yield matmul_words(m * n * k, fast), m * k + k * n + m * n, schedules.best_matmul(m, n, k, fast)


CONVS = [
    Conv(3, 5, 11, 9, 3, pad=1),
    Conv(16, 17, 15, 13, 3, pad=1),
    Conv(32, 48, 29, 29, 3, stride=2, pad=1),
    Conv(24, 24, 28, 28, 3, pad=1, groups=24),
    Conv(24, 24, 27, 28, 3, pad=1, groups=4),
    Conv(24, 32, 21, 28, 1),
    Conv(3, 32, 56, 56, 4, stride=4),
    Conv(16, 16, 30, 30, 3, pad=2, dilation=2),
    Conv(2, 2, 5, 5, 9, pad=4),
]


def conv_bound(conv, fast):
    axes = (window_axis(conv.x[a], conv.y[a], conv.kernel, conv.stride, conv.dilation, conv.pad) for a in (1, 2))
    return conv_words(conv.products, fast, prod(axis.overlap for axis in axes))


def conv_cases():
    for conv, fast in product(CONVS, [20, 200, 2000]):
        yield (
            conv_bound(conv, fast),
            conv.compulsory,
            schedules.best_conv(conv, fast, (1, 2, 3, 4, 5, 7, 8, 12, 14, 16, 28, 48)),
        )


ATTENTIONS = [
    (40, 40, 4, 4, False),
    (130, 130, 4, 4, False),
    (130, 130, 4, 4, True),
    (150, 75, 8, 5, False),
    (61, 61, 16, 16, True),
]


def attention_cases():
    for (length, keys, depth, values, causal), fast in product(ATTENTIONS, [14, 24, 64, 130, 300]):
        scores = length * (length + 1) / 2 if causal else length * keys
        bound = attention_words(scores, depth, values, fast)
        best = schedules.best_attention(length, keys, depth, values, fast, causal)
        yield bound, (length + keys) * (depth + values), best


@pytest.mark.parametrize("cases", [matmul_cases, conv_cases, attention_cases], ids=lambda cases: cases.__name__)
def test_no_schedule_moves_less_than_the_bound_and_some_move_less_than_twice_the_bound(cases):
    found = [case for case in cases() if case[2] < float("inf")]
    assert all(max(bound, compulsory) <= best for bound, compulsory, best in found)
    assert any(2 * bound > best for bound, _, best in found)
    assert any(2 * compulsory > best for _, compulsory, best in found)
    assert any(bound > compulsory for bound, compulsory, _ in found)


def test_the_constants_cannot_be_raised():
    """Large problems come within a few percent of matmul's and attention's, and within a fifth of convolution's."""
    words, held = schedules.matmul_schedule(99_000, 99_000, 99_000, 99, 99)
    assert 1 < words / matmul_words(99_000**3, held) < 1.03
    rows, depth = 4000, 64
    words, held = schedules.attention_schedule(400 * rows, 400 * rows, depth, depth, rows)
    assert 1 < words / attention_words((400.0 * rows) ** 2, depth, depth, held) < 1.05
    conv = Conv(1024, 64, 242, 242, 3)
    words, held = min(schedules.conv_schedules(conv, 64, 24, 24), key=lambda schedule: schedule[1])
    assert 1 < words / conv_bound(conv, held) < 1.2


def test_overlapping_windows_beat_the_bound_of_a_matmul():
    conv = Conv(32, 48, 28, 28, 3, pad=1)
    assert schedules.best_conv(conv, 200) < matmul_words(conv.products, 200)
    assert schedules.best_conv(conv, 200) > conv_bound(conv, 200)


def test_long_kernels_in_a_tiny_memory_are_held_by_the_second_form():
    assert conv_words(1e6, 8, 400) == pytest.approx(2.25e6 / 8)
    assert conv_words(1e6, 800, 400) == pytest.approx(2e6 / (400 * 800) ** 0.5)


@pytest.mark.parametrize("depth", [8, 64, 128])
def test_the_two_regimes_of_attention_meet_where_the_memory_holds_a_square_of_the_depth(depth):
    below, above = (attention_words(1e6, depth, depth, depth**2 * share) for share in (1.0, 1.0 + 1e-9))
    assert below == pytest.approx(above)
    assert below == pytest.approx(2e6)
    assert attention_words(1e6, depth, depth, depth**2 / 4) == pytest.approx(2 * below)
    printed = 1e6 * depth / depth**4  # Corollary 3.9, for a memory of depth^4 words
    assert attention_words(1e6, depth, depth, depth**4) == pytest.approx(4 * depth * printed, rel=0.02)


@pytest.mark.parametrize("fast", [4.0, 100.0, 5e3, 1e7])
def test_less_fast_memory_never_lowers_a_bound(fast):
    assert matmul_words(1e6, fast) > matmul_words(1e6, 2 * fast)
    assert conv_words(1e6, fast, 9) > conv_words(1e6, 2 * fast, 9)
    assert attention_words(1e6, 64, 64, fast) > attention_words(1e6, 64, 64, 2 * fast)


def test_the_printed_formula_is_no_lower_bound():
    chains, length, fast = 10**6, 100, 1024
    schedule = 2 * chains  # one chain at a time: its input and its output
    assert edge_depth_heuristic(chains * length, length, fast) > 4.9 * schedule
    n, fast = 1024, 2**20
    schedule, held = schedules.matmul_schedule(n, n, n, 1000, 1000)
    assert held <= fast
    assert matmul_words(n**3, fast) < 3 * n * n <= schedule < 6 * n * n
    edges = 4 * n**3  # two into each product, two into each sum
    assert edge_depth_heuristic(edges, n + 1, fast) > 25 * schedule  # sums in a row
    assert edge_depth_heuristic(edges, 11, fast) > 40 * schedule  # sums in a tree
