"""Seconds of ops from the laws in a profile: the parts that coefficients contribute, stand-ins, and what has no law."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from szilard.cost_model.cost import GIVEN
from szilard.cost_model.device import Coefficient, Device, load_device, unit_of
from szilard.cost_model.kernel_times import caches, has_kernel_times, kernel_seconds, laws_of, run_seconds
from szilard.cost_model.net import Net
from szilard.cost_model.price import price_net
from szilard.cost_model.saving import seconds_interval

from .priced_nets import net_of

LAWS = {
    "time.onnxruntime.run.call": 1e-5,
    "time.onnxruntime.neg.call": 1e-6,
    "time.onnxruntime.neg.near_byte": 1e-11,
    "time.onnxruntime.neg.memory_byte": 1e-10,
    "time.onnxruntime.softmax.call": 2e-6,
    "time.onnxruntime.softmax.near_byte": 0.0,
    "time.onnxruntime.view.call": 5e-7,
}


def device(laws: Mapping[str, float] = LAWS) -> Device:
    base = load_device("cpu")
    table = {key: Coefficient(value, unit_of(key), value / 2, value * 2, "measured", "A test.") for key, value in laws.items()}
    return replace(base, coefficients={**base.coefficients, **table})


def net(elements: int = 100) -> Net:
    shape = (elements,)
    return net_of(
        dict.fromkeys(("x", "a", "b", "c", "d"), shape),
        [
            ("neg", ["x"], ["a"]),
            ("reshape", ["a"], ["b"]),
            ("softmax", ["b"], ["c"], {"axis": -1}),
            ("other:Odd", ["c"], ["d"]),
        ],
    )


def test_an_op_takes_what_its_law_says_part_by_part():
    found = kernel_seconds(net(), device(), "onnxruntime")
    assert found["op0"] == pytest.approx({"time.onnxruntime.neg.call": 1e-6, "time.onnxruntime.neg.near_byte": 800e-11})
    assert found["op1"] == {"time.onnxruntime.view.call": 5e-7}
    # A feature that was fitted to nothing is known to take nothing.
    assert found["op2"] == {"time.onnxruntime.softmax.call": 2e-6, "time.onnxruntime.softmax.near_byte": 0.0}
    assert "op3" not in found, "an op of no known kernel has no seconds"


def without(*names: str) -> Device:
    return device({key: value for key, value in LAWS.items() if not key.endswith(names)})


def test_an_op_with_work_that_nothing_was_fitted_for_takes_the_roofline():
    bare = without("softmax.near_byte")
    found = kernel_seconds(net(), bare, "onnxruntime")
    assert "op2" not in found
    cost = price_net(net(), bare, found, label="table").ops["op2"]
    assert cost.label == "roofline"
    assert cost.seconds == price_net(net(), load_device("cpu")).ops["op2"].seconds > 0


def test_a_law_that_lacks_a_feature_leaves_the_op_to_its_stand_in():
    signs = net_of({"x": (100,), "y": (100,)}, [("sign", ["x"], ["y"])])
    laws = {**LAWS, "time.onnxruntime.sign.call": 4e-6}
    assert set(kernel_seconds(signs, device(laws), "onnxruntime")["op0"]) == {
        "time.onnxruntime.neg.call",
        "time.onnxruntime.neg.near_byte",
    }
    whole = {**laws, "time.onnxruntime.sign.cached_byte": 1e-11}
    assert set(kernel_seconds(signs, device(whole), "onnxruntime")["op0"]) == {
        "time.onnxruntime.sign.call",
        "time.onnxruntime.sign.cached_byte",
    }


def test_bytes_of_a_table_borrow_those_of_the_gather_that_stands_in():
    lookup = net_of(
        {"table": (50, 16), "ids": (4,), "y": (4, 16)}, [("embedding", ["table", "ids"], ["y"])], constants=["table"]
    )
    call, near, memory = (f"time.onnxruntime.gather.{name}" for name in ("call", "near_byte", "memory_byte"))
    found = kernel_seconds(lookup, device({call: 1e-6, near: 1e-11}), "onnxruntime")["op0"]
    assert set(found) == {call, near}
    assert found[near] > 0
    assert set(kernel_seconds(lookup, device({call: 1e-6, near: 1e-11, memory: 1e-10}), "onnxruntime")["op0"]) == {call, memory}


def test_bytes_at_a_level_that_no_benchmark_reached_take_the_nearest_one():
    near, last = caches(device())
    middle, large = int((near + last) / 2 / 8), int(last / 4)
    assert "time.onnxruntime.neg.memory_byte" in kernel_seconds(net(middle), device(), "onnxruntime")["op0"]
    assert "time.onnxruntime.neg.memory_byte" in kernel_seconds(net(large), device(), "onnxruntime")["op0"]


def test_a_kind_that_was_not_measured_borrows_the_law_of_one_that_moves_as_much():
    measured = frozenset(["neg", "add", "add.broadcast", "reduce", "copy", "view", "conv.gemm", "embedding"])
    assert list(laws_of("sign", measured)) == ["neg"]
    assert next(laws_of("mod.broadcast", measured)) == "add.broadcast"
    assert list(laws_of("cumsum", measured)) == ["reduce"]
    assert list(laws_of("conv.gemm", measured)) == ["conv.gemm"]
    assert list(laws_of("gather_nd", measured)) == ["embedding"]
    assert list(laws_of("matmul", measured)) == []
    assert list(laws_of("other:Odd", measured)) == []


def test_laws_of_one_runtime_say_nothing_of_another():
    assert has_kernel_times(device(), "onnxruntime")
    assert not has_kernel_times(device(), "torch")
    assert not has_kernel_times(load_device("cpu"), "onnxruntime")
    assert run_seconds(device(), "onnxruntime") == {"time.onnxruntime.run.call": 1e-5}
    assert run_seconds(device(), "torch") == {}
    assert kernel_seconds(net(), device(), "torch") == {}


def test_prices_take_the_parts_as_seconds_from_a_table_with_an_interval():
    seconds = kernel_seconds(net(), device(), "onnxruntime")
    cost = price_net(net(), device(), seconds, label="table").ops["op0"]
    assert cost.label == "table"
    assert cost.seconds == pytest.approx(1e-6 + 800e-11)
    assert GIVEN not in cost.seconds_by_bound
    low, high = seconds_interval(cost, device())
    assert low == pytest.approx(cost.seconds / 2, rel=0.1)
    assert high == pytest.approx(cost.seconds * 2, rel=0.1)


def test_a_branch_that_is_taken_is_timed_with_the_op_that_holds_it():
    inner = net_of({"x": (100,), "y": (100,)}, [("neg", ["x"], ["y"])])
    body = replace(inner, ops={"inner": replace(inner.ops["op0"], id="inner")})
    outer = net_of({"yes": (1,), "x": (100,), "z": (100,)}, [("if", ["yes"], ["z"], {"taken": 0})], branches={"op0": (body,)})
    laws = {**LAWS, "time.onnxruntime.if.call": 3e-6}
    found = kernel_seconds(outer, device(laws), "onnxruntime")
    assert set(found) == {"op0"}
    assert found["op0"]["time.onnxruntime.if.call"] == 3e-6
    assert found["op0"]["time.onnxruntime.neg.call"] == 1e-6


def test_a_branch_with_an_op_of_no_law_leaves_its_if_to_the_roofline():
    inner = net_of({"x": (100,), "a": (100,), "y": (100,)}, [("neg", ["x"], ["a"]), ("other:Odd", ["a"], ["y"])])
    body = replace(inner, ops={f"inner {name}": replace(op, id=f"inner {name}") for name, op in inner.ops.items()})
    outer = net_of({"yes": (1,), "x": (100,), "z": (100,)}, [("if", ["yes"], ["z"], {"taken": 0})], branches={"op0": (body,)})
    assert kernel_seconds(outer, device({**LAWS, "time.onnxruntime.if.call": 3e-6}), "onnxruntime") == {}
