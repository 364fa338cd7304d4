"""Runs prepared linear layers that read one input in onnxruntime; shared by tests of kernels/quantized_linear."""

import numpy as np
import onnx_ir as ir
import onnxruntime

from szilard.kernels.quantized_linear.onnx_body import QuantizedInputs, linear_nodes, runtime_domain_imports, split_nodes


def model_of(parts, shape):
    """An onnx_ir model of the layers, all reading the float input "x"; merged ones are split again."""
    x = ir.Value(name="x", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
    shared, nodes, initializers, outputs = QuantizedInputs(), [], [], []
    for index, part in enumerate(parts):
        body = linear_nodes(part, x, f"site{index}", shared)
        nodes += body.nodes
        initializers += body.initializers
        if "splits" not in part.tensors:
            outputs.append(body.output)
            continue
        cut, values, sizes = split_nodes(part, body.output, [f"part{index}_{i}" for i in range(len(part.tensors["splits"]))])
        nodes, initializers, outputs = nodes + cut, initializers + sizes, outputs + values
    opsets = {"": 20, **runtime_domain_imports()}
    graph = ir.Graph([x], outputs, nodes=nodes, initializers=initializers, opset_imports=opsets, name="linears")
    return ir.Model(graph, ir_version=10)


def run(parts, x: np.ndarray):
    """The outputs of onnxruntime's CPU provider, one array a layer (or a part of a merged one)."""
    model = model_of(parts, [*(f"D{axis}" for axis in range(x.ndim - 1)), x.shape[-1]])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})
