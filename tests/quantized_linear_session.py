"""Runs prepared linear layers that read one input in onnxruntime; shared by tests of kernels/quantized_linear."""

import numpy as np
import onnx_ir as ir
import onnxruntime

from szilard.kernels.quantized_linear.onnx_body import QuantizedInputs, linear_nodes, runtime_domain_imports


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


def split_nodes(part, wide, names):
    """(nodes, one value a layer, initialisers): the result of a merged layer cut along its last axis."""
    widths = part.tensors["splits"]
    sizes = ir.Value(
        name=f"{names[0]}_splits",
        shape=ir.Shape([len(widths)]),
        type=ir.TensorType(ir.DataType.INT64),
        const_value=ir.tensor(widths),
    )
    node = ir.node("Split", [wide, sizes], {"axis": -1}, num_outputs=len(names), name=f"{names[0]}_split")
    for value, name, width in zip(node.outputs, names, widths, strict=True):
        value.name, value.type = f"{name}_y", ir.TensorType(ir.DataType.FLOAT)
        value.shape = None if wide.shape is None else ir.Shape([*wide.shape[:-1], int(width)])
    return [node], list(node.outputs), [sizes]


def run(parts, x: np.ndarray):
    """The outputs of onnxruntime's CPU provider, one array a layer (or a part of a merged one)."""
    model = model_of(parts, [*(f"D{axis}" for axis in range(x.ndim - 1)), x.shape[-1]])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})
