"""The graph that onnxruntime really runs: fused, named, and found without running it."""

import onnx_ir as ir
import pytest

from szilard.cost_model.errors import InputError
from szilard.cost_model.view_onnx import view_onnx
from szilard.rewriter.microbenchmark_graph import Chain
from szilard.rewriter.onnx_as_run import as_onnxruntime_runs


def normed() -> ir.Model:
    """A sum, its layer norm, and two views that undo each other."""
    chain = Chain()
    x, y = chain.input(2, 5, 8), chain.input(2, 5, 8)
    total = chain.node("Add", x, y)
    out = chain.node("LayerNormalization", total, chain.weight(8), chain.weight(8), axis=-1)
    return ir.from_proto(chain.done("", "", out).model)


def test_what_the_runtime_fuses_is_one_node():
    model = as_onnxruntime_runs(normed())
    kinds = {(node.domain, node.op_type) for node in model.graph}
    assert ("com.microsoft", "SkipLayerNormalization") in kinds
    assert ("", "Add") not in kinds


def test_nodes_have_unique_names_and_the_view_prices_every_one():
    model = as_onnxruntime_runs(normed())
    names = [node.name for node in model.graph]
    assert all(names)
    assert len(set(names)) == len(names)
    net = view_onnx(model, {"x0": (2, 5, 8), "x1": (2, 5, 8)})
    assert set(net.ops) == set(names)
    assert all(net.shape(op.output) is not None for op in net.ops.values())


def test_weights_of_any_size_come_along():
    chain = Chain()
    model = chain.done("", "", chain.node("MatMul", chain.input(2, 64), chain.weight(64, 64))).model
    found = as_onnxruntime_runs(ir.from_proto(model))
    net = view_onnx(found, {"x0": (2, 64)})
    (product,) = [op for op in net.ops.values() if op.kind == "matmul"]
    assert net.array(product.inputs[1]).shape == (64, 64)


def test_a_model_that_does_not_load_is_refused(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(InputError, match="cannot load"):
        as_onnxruntime_runs(tmp_path / "bad.onnx")
