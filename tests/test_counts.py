"""Laws of counts: what is unknown is said, groups never move more than their members, branches count once."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.cost_model import kinds
from szilard.cost_model.counts import Counts, count, count_group
from szilard.cost_model.tile_reuse import Product, excess

from .priced_nets import net_of


def chain(sizes, kinds_of):
    """A chain of one-input ops over values of shape [size]; every third op also reads the net's input."""
    shapes = {f"v{i}": (size,) for i, size in enumerate(sizes)}
    lines = [(kind, [f"v{i}", "v0"] if kind in kinds.BINARY else [f"v{i}"], [f"v{i + 1}"]) for i, kind in enumerate(kinds_of)]
    return net_of(shapes, lines)


def test_bytes_flops_launches_and_elements_of_one_op():
    net = net_of({"a": (7, 5), "b": (5, 3), "y": (7, 3)}, [("matmul", ["a", "b"], ["y"])], constants=["b"])
    nest = Product(1, 7, 5, 3, left=4.0, right=4.0, partial=4.0)
    assert count(net.ops["op0"], net) == Counts(
        {"float32.tensor": 210}, 200.0, 84.0, (140.0, 84.0), launches=1, known=True, elements=21, nests=(nest,)
    )


def test_activations_are_what_is_no_constant_even_behind_a_view():
    shapes = {"x": (7,), "w": (7,), "v": (1, 7), "h": (7,), "y": (7,)}
    net = net_of(shapes, [("reshape", ["w"], ["v"]), ("mul", ["x", "v"], ["h"]), ("neg", ["h"], ["y"])], constants=["w"])
    _, product, last = (count(op, net) for op in net.ops.values())
    assert (product.bytes, product.activations) == (84, (28, 28))
    assert (last.bytes, last.activations) == (56, (28, 28))


@pytest.mark.parametrize("kind", sorted(kinds.FREE | kinds.VIEW))
def test_free_ops_cost_nothing(kind):
    net = net_of({"x": (7, 5), "y": (35,)}, [(kind, ["x"], ["y"])])
    found = count(net.ops["op0"], net)
    assert (found.bytes, found.launches, dict(found.flops), found.known) == (0, 0, {}, True)


@pytest.mark.parametrize("kind", sorted(kinds.KINDS - kinds.CONTROL))
def test_every_kind_of_the_vocabulary_is_counted_or_said_unknown(kind):
    net = net_of(
        {"a": (2, 4, 8), "b": (2, 4, 8), "c": (2, 4, 8), "y": (2, 4, 8)}, [(kind, ["a", "b", "c"], ["y"], {"heads": 2})]
    )
    found = count(net.ops["op0"], net)
    free = kind in kinds.FREE | kinds.VIEW | {"dropout"}
    assert (found.bytes == 0) == free
    assert all(value >= 0 for value in found.flops.values())


def test_an_unknown_operator_keeps_its_bytes_and_says_so():
    net = net_of({"x": (7, 5), "y": (7, 5)}, [(kinds.other("my::Op"), ["x"], ["y"])])
    found = count(net.ops["op0"], net)
    assert not found.known
    assert (found.read, found.written, found.launches) == (140, 140, 1)


def test_an_unknown_shape_is_not_a_silent_zero():
    net = net_of({"x": None, "y": (7, 5)}, [("exp", ["x"], ["y"])])
    assert not count(net.ops["op0"], net).known
    net = net_of({"x": (7, 5), "y": None}, [("exp", ["x"], ["y"])])
    found = count(net.ops["op0"], net)
    assert not found.known
    assert found.read == 140


def body(rows):
    return net_of({"a": (rows, 5), "b": (rows, 5)}, [("exp", ["a"], ["b"])])


def test_if_counts_its_most_expensive_branch_and_loops_one_body():
    net = net_of({"c": (), "y": (9, 5)}, [("if", ["c"], ["y"])], branches={"op0": (body(3), body(9))}, dtypes={"c": "bool"})
    found = count(net.ops["op0"], net)
    assert found.flops == {"float32": 12 * 45}
    assert found.bytes == 2 * 9 * 5 * 4
    assert found.known
    net = net_of({"c": (), "y": (9, 5)}, [("loop", ["c"], ["y"])], branches={"op0": (body(3),)})
    assert count(net.ops["op0"], net).flops == {"float32": 12 * 15}
    assert not count(net.ops["op0"], net).known


def test_a_body_counts_as_often_as_it_runs():
    """Seven runs on values of their own, each of which is a launch beside that of the loop."""
    shapes, branches = {"c": (), "y": (9, 5)}, {"op0": (body(3),)}
    once, whole = (
        count(net.ops["op0"], net)
        for net in (net_of(shapes, [("scan", ["c"], ["y"], {"trips": trips})], branches=branches) for trips in (1, 7))
    )
    assert whole.known
    assert whole.flops == {"float32": 7 * 12 * 15}
    assert whole.bytes == 7 * once.bytes == 7 * 2 * 60
    assert whole.activations == (60.0,) * 14
    assert whole.launches == 7 * once.launches
    product = net_of({"a": (64, 64), "b": (64, 64), "d": (64, 64)}, [("matmul", ["a", "b"], ["d"])])
    net = net_of(shapes, [("loop", ["c"], ["y"], {"trips": 7})], branches={"op0": (product,)})
    (nest,) = count(net.ops["op0"], net).nests
    (single,) = count(product.ops["op0"], product).nests
    assert excess(nest, 2048) == 7 * excess(single, 2048) > 0


def test_a_branch_that_is_known_to_be_taken_counts_alone():
    odd = net_of({"a": (1,), "b": (1,)}, [(kinds.other("x"), ["a"], ["b"])])
    shapes, branches = {"c": (), "y": (9, 5)}, {"op0": (body(3), body(9), odd)}
    for taken, rows in ((0, 3), (1, 9)):
        net = net_of(shapes, [("if", ["c"], ["y"], {"taken": taken})], branches=branches, dtypes={"c": "bool"})
        found = count(net.ops["op0"], net)
        assert found.flops == {"float32": 12 * 5 * rows}
        assert found.known
    net = net_of(shapes, [("if", ["c"], ["y"], {"taken": 2})], branches=branches, dtypes={"c": "bool"})
    assert not count(net.ops["op0"], net).known


def test_a_branch_reads_values_of_the_net_around_it():
    inner = net_of({"b": (9, 5)}, [("mul", ["outside", "outside"], ["b"])])
    middle = net_of({"m": (9, 5)}, [("if", [], ["m"])], branches={"op0": (inner,)})
    net = net_of({"c": (), "outside": (9, 5), "y": (9, 5)}, [("if", ["c"], ["y"])], branches={"op0": (middle,)})
    found = count(net.ops["op0"], net)
    assert found.known
    assert found.bytes == 2 * 180


def test_an_unknown_branch_makes_the_if_unknown_even_when_it_is_cheap():
    odd = net_of({"a": (1,), "b": (1,)}, [(kinds.other("x"), ["a"], ["b"])])
    net = net_of({"c": (), "y": (9, 5)}, [("if", ["c"], ["y"])], branches={"op0": (body(9), odd)})
    assert not count(net.ops["op0"], net).known


def test_a_group_moves_only_what_crosses_its_edge():
    net = net_of(
        {"x": (7, 5), "w": (5, 5), "h": (7, 5), "g": (7, 5), "y": (7, 5)},
        [("matmul", ["x", "w"], ["h"]), ("gelu", ["h"], ["g"]), ("add", ["g", "x"], ["y"])],
        constants=["w"],
    )
    fused = count_group(net.ops.values(), net)
    assert (fused.read, fused.written, fused.launches) == (140 + 100, 140, 1)
    assert fused.flops == {"float32.tensor": 2 * 7 * 5 * 5, "float32": 20 * 35 + 35}
    part = count_group([net.ops["op0"], net.ops["op1"]], net)
    assert (part.read, part.written, part.activations) == (240, 140, (140, 140))


def test_views_inside_a_group_hide_neither_reads_nor_writes():
    net = net_of(
        {"x": (6,), "h": (2, 3), "g": (2, 3), "y": (6,)},
        [("reshape", ["x"], ["h"]), ("exp", ["h"], ["g"]), ("reshape", ["g"], ["y"])],
    )
    fused = count_group(net.ops.values(), net)
    assert (fused.read, fused.written, fused.activations) == (24, 24, (24, 24))


def test_a_group_of_views_launches_nothing():
    net = net_of({"x": (6,), "h": (2, 3), "y": (6,)}, [("reshape", ["x"], ["h"]), ("reshape", ["h"], ["y"])])
    assert count_group(net.ops.values(), net).launches == 0


@given(
    st.lists(st.integers(1, 2000), min_size=2, max_size=8),
    st.lists(st.sampled_from(["exp", "add", "slice", "transpose", "reduce_sum", "reshape", "gather"]), min_size=7, max_size=7),
    st.data(),
)
@settings(max_examples=80, deadline=None)
def test_fusing_never_raises_bytes_and_disjoint_counts_add(sizes, kinds_of, data):
    net = chain(sizes, kinds_of[: len(sizes) - 1])
    members = [net.ops[name] for name in data.draw(st.lists(st.sampled_from(list(net.ops)), unique=True, min_size=1))]
    apart = [count(op, net) for op in members]
    fused = count_group(members, net)
    assert fused.bytes <= sum(part.bytes for part in apart) + 1e-9
    assert fused.launches <= sum(part.launches for part in apart)
    total = sum(apart, Counts())
    assert fused.flops == total.flops
    assert fused.nests == total.nests
    assert total.read == pytest.approx(sum(part.read for part in apart))


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_counts_grow_with_size(rows, inner, columns, more):
    def of(n):
        net = net_of({"a": (n, inner), "b": (inner, columns), "y": (n, columns)}, [("matmul", ["a", "b"], ["y"])])
        return count(net.ops["op0"], net)

    small, large = of(rows), of(rows + more)
    assert large.bytes >= small.bytes
    assert large.flops["float32.tensor"] >= small.flops["float32.tensor"]
