"""Nodes and constants that a model can be made of."""

import numpy as np
import onnx_ir as ir

from szilard.kernels.onnx_nodes import make_initializer, make_node, typed
from szilard.rewriter.runtime_onnx import onnx_runner


def test_a_model_of_named_nodes_and_constants_runs():
    x = typed(ir.Value(name="x"), ir.DataType.FLOAT, ir.Shape(["n", 3]))
    weight = make_initializer("weight", np.arange(6, dtype=np.float32).reshape(2, 3).T)
    product = make_node("MatMul", [x, weight], ["product"])
    parts = make_node("Split", [product.outputs[0]], ["left", "right"], axis=1, num_outputs=2)
    assert (parts.name, [value.name for value in parts.outputs]) == ("left", ["left", "right"])
    outputs = [typed(value, ir.DataType.FLOAT, ir.Shape(["n", 1])) for value in parts.outputs]
    graph = ir.Graph([x], outputs, nodes=[product, parts], initializers=[weight], opset_imports={"": 20}, name="two")
    given = np.ones((4, 3), np.float32)
    with onnx_runner(ir.Model(graph, ir_version=9)) as run:
        found = run({"x": given})
    assert np.array_equal(found["left"], np.full((4, 1), 3.0))
    assert np.array_equal(found["right"], np.full((4, 1), 12.0))
