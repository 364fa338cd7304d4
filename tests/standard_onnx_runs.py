"""Runs a small ONNX model in every way that reads standard operators: as written or optimised by onnxruntime, and by onnx itself."""

import onnx
import onnx_ir as ir
import onnxruntime
from onnx.reference import ReferenceEvaluator

WAYS = ("as written", "optimised", "onnx")


def outputs(model: ir.Model, feeds, way: str) -> list:
    """The outputs of the checked model, which has no operator outside standard ONNX."""
    assert_standard(model)
    proto = ir.to_proto(model)
    if way == "onnx":
        return ReferenceEvaluator(proto).run(None, dict(feeds))
    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if way == "optimised" else levels.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(feeds))


def assert_standard(model: ir.Model) -> None:
    """The model passes onnx.checker with shape inference, and no node or import is of another domain."""
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert not model.functions
    assert {node.domain for node in model.graph.all_nodes()} <= {""}
    assert set(model.opset_imports) == {""}
