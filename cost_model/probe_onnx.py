"""One run of an ONNX skeleton in onnxruntime, for facts that shape inference cannot give: shapes, and which branch an If takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

PREFIX = "szilard_probe_"
CAST_LIKE = 15
"""The first opset with CastLike."""
Weights = Mapping[str, ir.TensorProtocol]


def run(proto: onnx.ModelProto, weights: Weights, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray] | None:
    """The outputs of `proto` on `inputs`; `weights` are initialisers that it declares as inputs. None if it cannot be run.

    The weights go in by reference (external initialisers in memory), so that nothing above 2 GB is ever serialised.
    """
    try:
        import onnxruntime
    except ImportError:
        return None
    probe = onnx.ModelProto()
    probe.CopyFrom(proto)
    if not any(entry.domain == "" for entry in probe.opset_import):
        probe.opset_import.add(domain="", version=17)
    del probe.graph.value_info[:]
    arrays, read = {}, _read(probe.graph)
    for info in [info for info in probe.graph.input if info.name in weights]:
        probe.graph.input.remove(info)
        if info.name not in read:  # onnxruntime drops it first and then fails to find it
            continue
        weight = weights[info.name]
        if weight.dtype.numpy().isbuiltin != 1:  # bfloat16, int4 and their like, which onnxruntime takes from no numpy array
            ir.serde.serialize_tensor_into(probe.graph.initializer.add(), weight)
            probe.graph.initializer[-1].name = info.name
            continue
        arrays[info.name] = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(weight.numpy()))
        declared = probe.graph.initializer.add(name=info.name, data_type=info.type.tensor_type.elem_type)
        declared.dims.extend(dim.dim_value for dim in info.type.tensor_type.shape.dim)
        declared.data_location = onnx.TensorProto.EXTERNAL
        declared.external_data.add(key="location", value=PREFIX + "in_memory")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if arrays:
        options.add_external_initializers(list(arrays), list(arrays.values()))
    try:
        session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return session.run(None, dict(inputs))
    except Exception:  # onnxruntime's faults share no base class; by contract, what cannot be run stays unknown
        return None


def _read(graph: onnx.GraphProto) -> set[str]:
    found = {output.name for output in graph.output}
    for node in graph.node:
        found.update(node.input)
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                found |= _read(inner)
    return found


def measure_shapes(
    proto: onnx.ModelProto, weights: Weights, inputs: Mapping[str, np.ndarray], names: Sequence[str]
) -> list[onnx.ValueInfoProto]:
    """Shape and dtype of the values `names`, from one run; [] if it cannot be run.

    Only shapes and a one of the same dtype leave the run, and shapes are taken as soon as they can be, so that no activation is kept
    alive: the 2,000 values of a language model at 2,048 tokens would take 20 GB.
    """
    probe = onnx.ModelProto()
    probe.CopyFrom(proto)
    graph = probe.graph
    del graph.output[:]
    opset = max((entry.version for entry in probe.opset_import if entry.domain == ""), default=17)
    graph.initializer.append(onnx.helper.make_tensor(PREFIX + "one", onnx.TensorProto.FLOAT, [], [1.0]))
    for key, value in (("flat", -1), ("zero", 0)):
        graph.initializer.append(onnx.helper.make_tensor(PREFIX + key, onnx.TensorProto.INT64, [1], [value]))
    for name in names:
        shape, kind = f"{PREFIX}shape:{name}", f"{PREFIX}kind:{name}"
        graph.node.add(op_type="Shape", input=[name], output=[shape])
        if opset >= CAST_LIKE:
            graph.node.add(op_type="CastLike", input=[PREFIX + "one", name], output=[kind])
        else:  # an empty slice carries the dtype too, at the price of keeping the value alive
            graph.node.add(op_type="Reshape", input=[name, PREFIX + "flat"], output=[f"{kind}:flat"])
            graph.node.add(op_type="Slice", input=[f"{kind}:flat", PREFIX + "zero", PREFIX + "zero"], output=[kind])
        graph.output.add(name=shape)
        graph.output.add(name=kind)
    results = run(probe, weights, inputs) or []
    found = []
    for name, sizes, one in zip(names, results[::2], results[1::2], strict=False):
        dtype = onnx.helper.np_dtype_to_tensor_dtype(one.dtype)
        found.append(onnx.helper.make_tensor_value_info(name, dtype, [int(size) for size in sizes]))
    return found


def take_branches(
    proto: onnx.ModelProto, weights: Weights, inputs: Mapping[str, np.ndarray]
) -> tuple[onnx.ModelProto, dict[str, str]] | None:
    """`proto` with each If of its main graph replaced by the branch that `inputs` make it take, and node name -> that branch's
    attribute name. None if it has no If or cannot be run. The branches' own Ifs are then in the main graph: call again."""
    ifs = [node for node in proto.graph.node if node.op_type == "If" and node.domain in ("", "ai.onnx")]
    if not ifs:
        return None
    probe = onnx.ModelProto()
    probe.CopyFrom(proto)
    del probe.graph.output[:]
    conditions = list(dict.fromkeys(node.input[0] for node in ifs))
    for index, condition in enumerate(conditions):
        probe.graph.node.add(op_type="Identity", input=[condition], output=[f"{PREFIX}condition_{index}"])
        probe.graph.output.add(name=f"{PREFIX}condition_{index}")
    results = run(probe, weights, inputs)
    if results is None:
        return None
    holds = {name: bool(np.asarray(value).reshape(-1)[0]) for name, value in zip(conditions, results, strict=True)}
    flat, taken = onnx.ModelProto(), {}
    flat.CopyFrom(proto)
    del flat.graph.node[:]
    for node in proto.graph.node:
        if node.op_type != "If" or node.domain not in ("", "ai.onnx"):
            flat.graph.node.add().CopyFrom(node)
            continue
        taken[node.name] = "then_branch" if holds[node.input[0]] else "else_branch"
        branch = next(attribute.g for attribute in node.attribute if attribute.name == taken[node.name])
        flat.graph.initializer.extend(branch.initializer)
        flat.graph.node.extend(branch.node)
        for inner, output in zip(branch.output, node.output, strict=True):
            if output:
                flat.graph.node.add(op_type="Identity", input=[inner.name], output=[output])
    return flat, taken
