"""Floors on traffic hold below real schedules, simulated word by word; the printed formula that is no bound does not."""

from collections import OrderedDict

import pytest

from szilard.cost_model.counts import count
from szilard.cost_model.io_bounds import edge_depth_heuristic, io_floor, matmul_words

from .priced_nets import net_of


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


def simulated_matmul(n, fast, tile):
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
def test_matmul_bound_holds_below_every_simulated_tiling(n, fast):
    best = min(simulated_matmul(n, fast, tile) for tile in (1, 2, 3, 4, 5, 9))
    assert matmul_words(n**3, fast) <= best


def test_matmul_bound_is_within_three_of_a_real_schedule_and_needs_its_square_root():
    best = min(simulated_matmul(14, 20, tile) for tile in (2, 3, 4))
    assert best / 3 < matmul_words(14**3, 20)
    assert matmul_words(14**3, 5) > best  # less fast memory means more traffic: the bound must notice


def test_a_large_fast_memory_leaves_nothing_but_compulsory_traffic():
    assert matmul_words(8**3, 1e6) == 0


def test_the_printed_formula_is_no_lower_bound():
    chains, length, fast = 10**6, 100, 1024
    schedule = 2 * chains  # one chain at a time: its input and its output
    assert edge_depth_heuristic(chains * length, length, fast) > 4 * schedule
    n, fast = 1024, 2**20
    schedule = 3 * n * n  # everything fits
    assert edge_depth_heuristic(2 * n**3, n, fast) > 10 * schedule
    assert matmul_words(n**3, fast) <= schedule


def matmul_net(rows, inner, columns, batch=None, dtype="float32"):
    lead = () if batch is None else (batch,)
    shapes = {"a": (*lead, rows, inner), "b": (*lead, inner, columns), "y": (*lead, rows, columns)}
    return net_of(shapes, [("matmul", ["a", "b"], ["y"])], dtypes=dict.fromkeys("aby", dtype))


def floor(net, fast):
    op = net.ops["op0"]
    return io_floor(op, net, count(op, net), fast)


def test_floor_of_an_op_is_compulsory_traffic_or_the_bound_whichever_is_more():
    net = matmul_net(512, 512, 512)
    compulsory = 3 * 512 * 512 * 4
    assert floor(net, 50e6) == compulsory
    words = 4096 / 4
    assert floor(net, 4096) == pytest.approx(4 * (2 * 512**3 / words**0.5 - 2 * words))
    assert floor(net, 4096) > compulsory


def test_floor_of_half_precision_counts_smaller_words():
    assert floor(matmul_net(512, 512, 512, dtype="float16"), 4096) < floor(matmul_net(512, 512, 512), 4096)


def test_floor_of_a_batch_adds_up():
    one, many = floor(matmul_net(256, 256, 256), 4096), floor(matmul_net(256, 256, 256, batch=3), 4096)
    assert many == pytest.approx(3 * one, rel=0.01)


def test_convolutions_and_unknown_ops_keep_their_compulsory_floor():
    net = net_of({"x": (1, 64, 32, 32), "w": (64, 64, 3, 3), "y": (1, 64, 30, 30)}, [("conv", ["x", "w"], ["y"])])
    assert floor(net, 1024) == count(net.ops["op0"], net).bytes
    net = net_of({"a": None, "b": (5, 3), "y": (7, 3)}, [("matmul", ["a", "b"], ["y"])])
    assert floor(net, 1024) == 60 + 84
