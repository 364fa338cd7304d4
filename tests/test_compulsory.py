"""Compulsory bytes are what the pebble game needs: never more than its least, and all of it where the fast memory is large."""

import random
from dataclasses import replace

import pytest

from szilard.cost_model.compulsory import compulsory_bytes
from szilard.cost_model.counts_traffic import ALIAS
from szilard.cost_model.device import load_device
from szilard.cost_model.net import Net
from szilard.cost_model.price import price_group, price_net, price_op

from .element_graphs import MOST_NODES, element_graph, random_net
from .pebbling import least_words
from .priced_nets import net_of

WORD = 4
CPU = load_device("cpu")
FAMILIES = {"elementwise": 160, "fused": 200, "net": 120}
"""One op; some ops of a net in one kernel; all of them. Random graphs of each."""


def members_of(family, net, seed):
    ops, rng = list(net.ops.values()), random.Random(seed)
    if family == "elementwise":
        return [rng.choice([op for op in ops if op.kind not in ALIAS] or ops)]
    return ops if family == "net" else rng.sample(ops, rng.randint(1, len(ops)))


def floor_of(family, ops, net):
    if family == "elementwise":
        return price_op(ops[0], net, CPU).io_bytes
    return price_group(ops, net, CPU).io_bytes if family == "fused" else price_net(net, CPU).total.io_bytes


@pytest.mark.parametrize("family", FAMILIES)
def test_no_schedule_of_random_graphs_moves_less_and_some_move_less_than_twice_as_much(family):
    """The smallest fast memory that computes a graph, one word more, and one that holds all of it. Recomputing is allowed."""
    equal = doubled = 0
    for seed in range(FAMILIES[family]):
        net = random_net(seed)
        ops = members_of(family, net, seed)
        parents, kept = element_graph(ops, net)
        assert len(parents) <= MOST_NODES
        smallest = max(len(set(above)) for above in parents) or 1
        floor = floor_of(family, ops, net)
        words = [least_words(parents, kept, fast) for fast in (smallest, smallest + 1, len(parents))]
        assert floor <= WORD * min(words)
        assert floor == WORD * words[-1], "with all at hand nothing moves twice"
        equal += floor == WORD * words[0]
        doubled += 2 * floor > WORD * words[0]
    assert equal
    assert doubled


def bytes_of(kind, shapes, inputs, attributes=None, outputs=("y",), **more):
    net = net_of(shapes, [(kind, inputs, outputs, attributes or {})], **more)
    return compulsory_bytes(net.ops.values(), net)


def test_what_nobody_needs_is_not_moved():
    lines = [("exp", ["x"], ["h"]), ("tanh", ["z"], ["d"]), ("neg", ["h"], ["y"])]
    net = net_of(dict.fromkeys("xzhdy", (5,)), lines, outputs=["y"])
    assert compulsory_bytes(net.ops.values(), net) == 2 * 5 * WORD
    assert compulsory_bytes([net.ops["op1"]], net) == 0


def test_views_are_the_bytes_behind_them():
    lines = [("reshape", ["x"], ["v"]), ("reshape", ["x"], ["w"]), ("mul", ["v", "w"], ["h"]), ("reshape", ["h"], ["y"])]
    net = net_of({"x": (6,), "v": (2, 3), "w": (2, 3), "h": (2, 3), "y": (6,)}, lines)
    assert compulsory_bytes([net.ops["op2"]], net) == 12 * WORD
    assert compulsory_bytes(net.ops.values(), net) == 12 * WORD
    assert compulsory_bytes([net.ops["op0"]], net) == 0


def test_a_value_read_outside_is_written_though_it_is_used_inside():
    lines = [("exp", ["x"], ["h"]), ("neg", ["h"], ["y"]), ("tanh", ["h"], ["z"])]
    net = net_of(dict.fromkeys("xhyz", (5,)), lines)
    assert compulsory_bytes([net.ops["op0"], net.ops["op1"]], net) == 3 * 5 * WORD
    assert compulsory_bytes([net.ops["op1"], net.ops["op0"]], net) == 3 * 5 * WORD


class CountedNet(Net):
    """A net that counts how often it is asked about a value."""

    asked = 0

    def producer(self, value):
        self.asked += 1
        return super().producer(value)

    def consumers(self, value):
        self.asked += 1
        return super().consumers(value)


CHAINS = {"views": ("reshape",), "ops": ("exp",), "mixed": ("exp", "reshape", "reshape", "dropout")}


@pytest.mark.parametrize("chain", CHAINS)
def test_the_work_grows_with_the_net_and_not_with_its_square(chain):
    asked = []
    for length in (200, 400):
        lines = [(CHAINS[chain][i % len(CHAINS[chain])], [f"v{i}"], [f"v{i + 1}"]) for i in range(length)]
        net = net_of({f"v{i}": (3,) for i in range(length + 1)}, lines)
        counted = CountedNet(net.ops, net.values, net.inputs, net.outputs)
        assert price_net(counted, CPU).total.io_bytes == (0 if chain == "views" else 2 * 3 * WORD)
        asked.append(counted.asked)
    assert asked[1] < 2.1 * asked[0]


class WalkedOps(dict):
    """Ops that count how often all of them are gone through."""

    walks = 0

    def _walk(self):
        self.walks += 1
        return super()

    def __iter__(self):
        return self._walk().__iter__()

    def items(self):
        return self._walk().items()

    def values(self):
        return self._walk().values()


def test_groups_of_a_large_net_do_not_walk_it_each():
    lines = [("exp", [f"v{i}"], [f"v{i + 1}"]) for i in range(300)]
    net = net_of({f"v{i}": (3,) for i in range(301)}, lines)
    ops = WalkedOps(net.ops)
    walked = CountedNet(ops, net.values, net.inputs, net.outputs)
    assert [op.id for op in walked.in_order({"op9", "op7", "none", "op8"})] == ["op7", "op8", "op9"]
    for first in range(1, 290):
        assert compulsory_bytes([ops[f"op{first + i}"] for i in (1, 0, 2)], walked) == 2 * 3 * WORD
    assert ops.walks <= 3  # producers, consumers and places
    assert walked.asked < 20 * 290


def test_an_op_that_is_not_the_nets_own_is_priced_as_it_is():
    """What was worked out for the op of that id is not taken for another."""
    net = net_of({"x": (5,), "z": (50,), "y": (5,)}, [("exp", ["x"], ["y"])])
    assert compulsory_bytes([net.ops["op0"]], net) == 10 * WORD
    assert compulsory_bytes([replace(net.ops["op0"], inputs=("z",))], net) == 55 * WORD


def test_where_values_decide_only_what_every_case_needs_is_counted():
    gather = {"x": (100, 8), "i": (3,), "y": (3, 8)}
    assert bytes_of("gather", gather, ["x", "i"], dtypes={"i": "int64"}) == 3 * 8 + 24 * WORD
    scatter = {"x": (100, 8), "i": (3, 1), "u": (3, 8), "y": (100, 8)}
    assert bytes_of("scatter_nd", scatter, ["x", "i", "u"], dtypes={"i": "int64"}) == 3 * 8 + 2 * 24 * WORD
    assert bytes_of("resize", {"x": (1, 1, 8, 8), "y": (1, 1, 2, 2)}, ["x"], {"mode": "nearest"}) == 2 * 4 * WORD


def test_windows_skip_rows_and_padding_meets_no_tap():
    shapes = {"x": (1, 2, 10, 10), "w": (3, 2, 2, 2), "y": (1, 3, 3, 3)}
    assert (
        bytes_of("conv", shapes, ["x", "w"], {"strides": [3, 3]}) == (2 * 6 * 6 + 24 + 27) * WORD
    )  # the last row is in no window
    point = {"x": (1, 2, 1, 1), "w": (3, 2, 3, 3), "y": (1, 3, 1, 1)}
    assert bytes_of("conv", point, ["x", "w"], {"pads": [1, 1, 1, 1]}) == (2 + 6 + 3) * WORD
    wider = {"x": (1, 2, 4), "w": (2, 3, 2), "y": (1, 3, 4)}  # padding cuts off what the first and the last input make
    assert bytes_of("conv", wider, ["x", "w"], {"pads": [2, 2], "strides": [2], "transposed": True}) == (2 * 2 + 12 + 12) * WORD
    assert bytes_of("pool_max", {"x": (1, 1, 8), "y": (1, 1, 3)}, ["x"], {"kernel": [2], "strides": [3]}) == (6 + 3) * WORD


def test_causal_attention_needs_no_more_rows_than_both_alignments_of_its_mask():
    shapes = {"q": (1, 1, 3, 4), "k": (1, 1, 9, 4), "v": (1, 1, 9, 4), "y": (1, 1, 3, 4)}
    assert bytes_of("attention", shapes, ["q", "k", "v"]) == (12 + 36 + 36 + 12) * WORD
    assert bytes_of("attention", shapes, ["q", "k", "v"], {"is_causal": True}) == 4 * 12 * WORD


def test_branches_and_values_of_unknown_size_count_nothing():
    assert bytes_of("if", {"c": (1,), "y": (5,)}, ["c"]) == 0
    assert bytes_of("exp", {"x": None, "y": (5,)}, ["x"]) == 5 * WORD
