"""Loops of ONNX graphs: the shapes inside their bodies, how often these run, and the work of both."""

import numpy as np
import pytest

from szilard.cost_model.counts import count
from szilard.cost_model.kernel_work import net_work
from szilard.cost_model.view_onnx import view_onnx

from .onnx_texts import model, normal

WEIGHTS = {"w": normal(0, 8, 8), "start": np.zeros((4, 8)), "ones": np.ones(32, np.float32), "five": 5, "yes": True}
WEIGHTS["start"] = WEIGHTS["start"].astype(np.float32)
BODY = "{ h = MatMul(part, w) next = Add(h, state) out = Reshape(next, size) }"
SIZE = "u = NonZero(ones) size = Shape <start = 1> (u)"
SCAN = "Scan <num_scan_inputs = 1, scan_input_axes = [%d], body = b (state, part) => (next, out) " + BODY + "> (start, x)"
LOOP = "Loop <body = b (bool on, int64 turn) => (on) { on = Identity(go) }> (five, yes)"


@pytest.mark.parametrize(("axis", "shape"), [(0, (5, 4, 8)), (1, (4, 5, 8))])
def test_the_body_of_a_scan_runs_once_for_each_slice(axis, shape):
    """`size` is known to a run alone. A product [4, 8] x [8, 8] and a sum of 32 for each slice."""
    net = view_onnx(model(f"(float[A,B,8] x) => (s, y) {{ {SIZE} s, y = {SCAN % axis} }}", WEIGHTS), {"x": shape})
    scan = net.ops["n2"]
    assert scan.attributes["trips"] == 5
    assert scan.branches[0].shape("h") == (4, 8)
    assert scan.branches[0].shape("out") == (32,)
    found = count(scan, net)
    assert found.known
    assert found.flops == {"float32.tensor": 5 * 2 * 4 * 8 * 8, "float32": 5 * 32}


def test_bodies_may_share_their_names():
    text = f"(float[A,4,8] x, float[B,8,8] z) => (s, r) {{ {SIZE} s, y = {SCAN % 0} r, q = {SCAN % 0} }}"
    text = text.replace("(start, x) }", "(wide, z) }").replace("size) }> (wide", "more) }> (wide")
    text = text.replace(
        "u = NonZero", "v = Concat <axis = 0> (ones, ones) o = NonZero(v) more = Shape <start = 1> (o) u = NonZero"
    )
    weights = WEIGHTS | {"wide": np.zeros((8, 8), np.float32)}
    net = view_onnx(model(text, weights), {"x": (5, 4, 8), "z": (3, 8, 8)})
    first, second = (op for op in net.ops.values() if op.kind == "scan")
    assert first.branches[0].shape("h") == (4, 8)
    assert second.branches[0].shape("h") == (8, 8)
    assert second.branches[0].shape("out") == (64,)


def test_a_loop_runs_as_often_as_a_constant_says():
    body = "(int64 turn, bool go, float[4,8] state) => (on, next) { on = Identity(go) next = MatMul(state, w) }"
    text = f"""(float[4,8] x, int64 n) => (a, b) {{
      a = Loop <body = one {body}> (five, yes, x) b = Loop <body = two {body}> (n, yes, x)
    }}"""
    net = view_onnx(model(text, WEIGHTS), {"x": (4, 8)})
    known, open_ = net.ops["n0"], net.ops["n1"]
    assert count(known, net).flops == {"float32.tensor": 5 * 2 * 4 * 8 * 8}
    assert count(known, net).known
    assert not count(open_, net).known
    work = net_work(net, (1e6, 8e6))
    assert work["n0"] == ("loop", {"call": 5})
    assert work["n1"] == ("loop", {"call": 1})


def test_a_loop_that_its_body_may_end_is_open():
    """As `while` is exported: a count beyond all bounds, and a condition that the body computes."""
    body = "(int64 turn, bool go, float[4,8] state) => (on, next) { on = Less(turn, five) next = MatMul(state, w) }"
    text = f"(float[4,8] x) => (a) {{ a = Loop <body = one {body}> (ever, yes, x) }}"
    net = view_onnx(model(text, WEIGHTS | {"ever": 2**63 - 1}), {"x": (4, 8)})
    found = count(net.ops["n0"], net)
    assert not found.known
    assert found.flops["float32.tensor"] == 2 * 4 * 8 * 8
    assert "trips" not in net.ops["n0"].attributes
