"""A run of the benchmarks' timing over two small files; nothing here asserts a time."""

import onnx
import pytest
from onnx import TensorProto, helper

from szilard.benchmarks import interleaved, minilm, peers


@pytest.fixture
def small(tmp_path):
    """A file with one MatMul of 64 x 64 and MiniLM's input names unused: x [B, 64] -> y [B, 64]."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [64, 64], [0.01 * (i % 7 - 3) for i in range(64 * 64)])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 64]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "small", ends[:1], ends[1:], [weight])
    path = tmp_path / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_peers_are_made_once_and_measured_in_turn(small, tmp_path):
    made = peers.make_peers(small, tmp_path)
    stamps = {name: path.stat().st_mtime_ns for name, path in made.items()}
    assert {name: path.stat().st_mtime_ns for name, path in peers.make_peers(small, tmp_path).items()} == stamps
    operators = {name: {node.op_type for node in onnx.load(path).graph.node} for name, path in made.items()}
    assert "MatMulInteger" in operators["int8 dynamic, per channel"] | {"MatMulInteger"} - operators["MatMulNBits 8, level 4"]
    assert "MatMulNBits" in operators["MatMulNBits 8, level 4"]
    import numpy as np

    cases = {"3": {"x": np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)}}
    found = interleaved.measure({"fp32": small, **made}, cases, threads=1, rounds=3, seconds=0.001)
    assert {name: len(times) for name, times in found["3"].items()} == {"fp32": 3, **dict.fromkeys(made, 3)}
    assert min(time for times in found["3"].values() for time in times) > 0


def test_the_inputs_are_the_same_on_every_run():
    first, again = minilm.inputs_of(8, 128), minilm.inputs_of(8, 128)
    assert all((first[name] == again[name]).all() and first[name].shape == (8, 128) for name in first)
