"""Small ONNX models written as text, run in onnxruntime, one session at a time, and compared before and after a pass."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from szilard.cost_model.plan import Choice, Option
from szilard.cost_model.sites import Site, kind_of
from szilard.passes.onnx_pass import OnnxPass

Arrays = Mapping[str, np.ndarray]


def graph(text: str, weights: Arrays, *, opset: int = 18, name: str = "site") -> ir.Model:
    """The model of `text` ("(float[N,3] x) => (float[N,3] y) { y = Relu(x) }") with `weights` as initialisers.

    Nodes get the names n0, n1, ..."""
    header = f'ir_version: {8 if opset < 23 else 11}, opset_import: ["" : {opset}, "com.microsoft" : 1]'
    body = text.replace("float[", "float [").replace("bool[", "bool [")
    model = onnx.parser.parse_model(f"<{header}> {name} {body}")
    del model.opset_import[1]
    for index, node in enumerate(model.graph.node):
        node.name = f"n{index}"
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, label) for label, array in weights.items())
    return ir.from_proto(model)


def run(model: ir.Model, feeds: Arrays) -> list[np.ndarray]:
    """The outputs of the checked model, one thread, graph optimisations off (so that they cannot hide a wrong graph)."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(feeds))


def choose(action: str, *sites: Site, name: str = "") -> Choice:
    """A choice of `action` for the sites as one group."""
    options = tuple(Option(each, 0.0, 0.0, "roofline") for each in ("leave", action))
    return Choice(name or sites[0].id, kind_of(sites[0]), action, options, tuple(site.id for site in sites), "onnxruntime", "")


def apply(rewrite: OnnxPass, model: ir.Model, choices: Sequence[Choice], sites: Sequence[Site]) -> tuple[ir.Model, int]:
    """A rewritten clone and the number of changes. A second application must change nothing."""
    clone, known = model.clone(), {site.id: site for site in sites}
    changed = rewrite.apply(clone, choices, known)
    once = ir.to_proto(clone).SerializeToString(deterministic=True)
    assert rewrite.apply(clone, choices, known) == 0
    assert ir.to_proto(clone).SerializeToString(deterministic=True) == once
    assert [value.name for value in clone.graph.inputs] == [value.name for value in model.graph.inputs]
    assert [value.name for value in clone.graph.outputs] == [value.name for value in model.graph.outputs]
    return clone, changed


def assert_same(before: ir.Model, after: ir.Model, feeds: Arrays, tolerance: float = 2e-5) -> None:
    """Equal outputs, where NaN equals NaN, within `tolerance` of the largest value."""
    for old, new in zip(run(before, feeds), run(after, feeds), strict=True):
        assert old.shape == new.shape
        assert old.dtype == new.dtype
        scale = max(1.0, float(np.nanmax(np.abs(old), initial=0.0)))
        np.testing.assert_allclose(new, old, rtol=0, atol=tolerance * scale)


def kinds(model: ir.Model) -> list[str]:
    """The operators of the main graph, sorted."""
    return sorted(node.op_type for node in model.graph)
