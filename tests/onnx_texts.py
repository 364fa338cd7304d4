"""ONNX models written as text, for the tests of views and loaders."""

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir


def proto(text: str, weights: Mapping[str, object] | None = None, opset: int = 18, named: bool = True) -> onnx.ModelProto:
    """The model of "(float[N,3] x) => (float[N,3] y) { y = Relu(x) }"; its nodes are called n0, n1, ... if `named`."""
    header = f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]> g '
    model = onnx.parser.parse_model(header + text.replace("float[", "float [").replace("int64[", "int64 ["))
    _name(model.graph, "n" if named else "")
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in (weights or {}).items())
    return model


def _name(graph: onnx.GraphProto, start: str) -> None:
    """n0, n1, ... and, in the bodies of n1, n1.0, n1.1, ..."""
    for index, node in enumerate(graph.node):
        node.name = f"{start}{index}" if start else ""
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _name(attribute.g, f"{node.name}." if start else "")


def model(text: str, weights: Mapping[str, object] | None = None, opset: int = 18) -> ir.Model:
    """The same in onnx_ir."""
    return ir.from_proto(proto(text, weights, opset))


def normal(seed: int, *shape: int) -> np.ndarray:
    """Random float32 weights."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
