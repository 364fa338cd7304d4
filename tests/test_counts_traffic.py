"""Compulsory bytes: each value once, and only the part of it that is needed."""

import pytest

from szilard.cost_model import kinds
from szilard.cost_model.counts_traffic import is_constant, item_bytes, leaves, traffic, value_bytes

from .priced_nets import net_of


def traffic_of(kind, shapes, inputs, attributes=None, dtypes=None, outputs=("y",)):
    net = net_of(shapes, [(kind, inputs, outputs, attributes or {})], dtypes=dtypes)
    return traffic(net.ops["op0"], net)


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        ("float64", 8),
        ("float32", 4),
        ("bfloat16", 2),
        ("int8", 1),
        ("bool", 1),
        ("int4", 0.5),
        ("float8_e5m2", 1),
        ("object", None),
    ],
)
def test_bytes_of_an_element(dtype, size):
    assert item_bytes(dtype) == size


def test_value_bytes_need_shape_and_dtype():
    net = net_of({"a": (3, 5), "b": None, "c": (3,), "d": ()}, [], dtypes={"c": None})
    assert [value_bytes(name, net) for name in ("a", "b", "c", "d", "nowhere")] == [60, None, None, 4, None]


def test_inputs_are_read_once_and_outputs_written_once():
    found = traffic_of("mul", {"x": (7, 5), "y": (7, 5)}, ["x", "x"])
    assert found.reads == {"x": 140}
    assert found.writes == {"y": 140}
    assert found.known


def test_absent_operands_and_dead_outputs_cost_nothing():
    net = net_of(
        {"x": (7, 5), "w": (5,), "y": (7, 5), "mean": (7, 1)}, [("layer_norm", ["x", "w", ""], ["y", "mean"])], outputs=["y"]
    )
    found = traffic(net.ops["op0"], net)
    assert found.reads == {"x": 140, "w": 20}
    assert found.writes == {"y": 140}


@pytest.mark.parametrize("kind", sorted(kinds.FREE | kinds.VIEW | {"dropout"}))
def test_free_kinds_and_views_move_nothing_even_without_shapes(kind):
    found = traffic_of(kind, {"x": None, "y": None}, ["x"])
    assert not found.reads
    assert not found.writes
    assert found.known


@pytest.mark.parametrize("kind", sorted(kinds.GATHER))
def test_gathers_read_only_the_rows_they_take(kind):
    found = traffic_of(kind, {"table": (30000, 8), "rows": (3,), "y": (3, 8)}, ["table", "rows"], dtypes={"rows": "int64"})
    assert found.reads == {"table": 96, "rows": 24}


def test_slices_and_splits_read_what_they_keep():
    assert traffic_of("slice", {"x": (9, 5), "y": (2, 5)}, ["x"]).reads == {"x": 40}
    net = net_of({"x": (9, 5), "a": (4, 5), "b": (5, 5)}, [("split", ["x"], ["a", "b"])])
    assert traffic(net.ops["op0"], net).reads == {"x": 180}


def test_a_gather_of_more_than_there_is_reads_all_of_it_once():
    assert traffic_of("gather", {"table": (2, 8), "rows": (9,), "y": (9, 8)}, ["table", "rows"]).reads["table"] == 64


def test_a_stride_beyond_the_kernel_skips_input():
    shapes = {"x": (1, 4, 8, 8), "w": (6, 4, 1, 1), "y": (1, 6, 4, 4)}
    assert traffic_of("conv", shapes, ["x", "w"], {"strides": [2, 2]}).reads["x"] == 4 * 4 * 64 / 4
    shapes["w"] = (6, 4, 3, 3)
    assert traffic_of("conv", shapes, ["x", "w"], {"strides": [2, 2]}).reads["x"] == 4 * 4 * 64


def test_a_missing_shape_is_said_and_the_rest_is_kept():
    found = traffic_of("add", {"a": None, "b": (5,), "y": (7, 5)}, ["a", "b"])
    assert not found.known
    assert found.reads == {"a": 0, "b": 20}
    assert found.writes == {"y": 140}


def chain_through_a_view():
    """x -> exp a -> view b -> exp y, all of one size."""
    shapes = dict.fromkeys(("x", "a", "b", "y"), (4, 4))
    ops = [("exp", ["x"], ["a"], {}), ("reshape", ["a"], ["b"], {}), ("exp", ["b"], ["y"], {})]
    return net_of(shapes, ops)


def test_a_value_leaves_where_it_or_a_view_of_it_is_read_outside():
    net = chain_through_a_view()
    first, view, last = net.ops
    assert leaves("a", net, {first}, {})
    assert leaves("a", net, {first, view}, {})
    assert not leaves("a", net, {first, view, last}, {})
    assert leaves("y", net, {first, view, last}, {}), "it is returned"


def test_a_view_outside_is_looked_through_or_is_a_reader():
    net = chain_through_a_view()
    first, _, last = net.ops
    assert not leaves("a", net, {first, last}, {}), "a schedule of both may keep it"
    assert leaves("a", net, {first, last}, {}, within={first, last}), "a kernel of both hands it to the view"


def test_answers_are_remembered_and_right():
    shapes = dict.fromkeys(("x", "a", "b", "c", "y", "z"), (4, 4))
    views = [("reshape", ["a"], ["b"], {}), ("reshape", ["a"], ["c"], {})]
    net = net_of(shapes, [("exp", ["x"], ["a"], {}), *views, ("exp", ["b"], ["y"], {}), ("exp", ["c"], ["z"], {})])
    for members in ({"op0"}, {"op0", "op3"}, {"op0", "op4"}, set(net.ops)):
        expected = {name: leaves(name, net, members, {}) for name in ("a", "b", "c", "y", "z")}
        known = {}
        assert {name: leaves(name, net, members, known) for name in expected} == expected
        assert all(expected[name] is answer for name, answer in known.items())


def test_a_view_of_a_weight_is_a_constant():
    net = net_of({"w": (4, 4), "v": (16,), "x": (4,)}, [("reshape", ["w"], ["v"], {})], constants=("w",))
    assert is_constant("w", net)
    assert is_constant("v", net)
    assert not is_constant("x", net)
    assert not is_constant("nowhere", net)
