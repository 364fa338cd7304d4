"""What only the onnxruntime backend does: shapes found from the sample, the checker, transposes around attention, no int8 on CUDA."""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import szilard
from szilard.cost_model.device import load_device
from szilard.cost_model.errors import SzilardError
from szilard.passes.find import find
from szilard.rewriter import backend_onnx, runtime_onnx
from szilard.rewriter.backend import groups_of
from szilard.rewriter.backend_onnx import OnnxBackend

from .onnx_attentions import Spelling, attention
from .onnx_texts import model, normal
from .sparse_attention import site
from .tiny_models import block_model, samples, set_clock

SHAPES = {"x": (3, 5, 48)}


def test_shapes_that_hang_on_input_values_come_from_the_sample():
    graph = model("(float[N,6] x, int64[2] sizes) => (float[A,B] y) { r = Reshape(x, sizes) y = Neg(r) }")
    sample = {"x": normal(0, 5, 6), "sizes": np.array([10, 3])}
    shapes = {"x": (5, 6), "sizes": (2,)}
    assert OnnxBackend(sample).view(graph, shapes).shape("y") == (10, 3)
    assert OnnxBackend().view(graph, shapes).shape("y") is None


def test_a_part_of_the_model_is_viewed_without_the_sample():
    part = model("(float[N,6] h) => (float[N,6] y) { y = Neg(h) }")
    assert OnnxBackend({"x": normal(0, 5, 6)}).view(part, {"h": (7, 6)}).shape("y") == (7, 6)


def test_lint_names_a_graph_that_a_pass_broke():
    backend, graph = OnnxBackend(), block_model()
    backend.lint(graph)
    next(node for node in graph.graph if node.op_type == "Relu").op_type = "Reluu"
    with pytest.raises(SzilardError, match=r"(?s)left an invalid ONNX graph .*Reluu.*please report") as caught:
        backend.lint(graph)
    assert caught.value.exit_code == 1


def test_nodes_of_branches_are_counted():
    text = """(float[N,3] x, bool c) => (float[N,3] y) {
        y = If (c) <then_branch = t () => (float[N,3] t) { t = Abs(x) }, else_branch = e () => (float[N,3] e) { d = Neg(x) e = Abs(d) }>
    }"""
    assert OnnxBackend().node_count(model(text)) == 4


def test_the_footprint_of_attention_takes_in_its_transposes():
    backend, graph = OnnxBackend(), attention(Spelling())
    net = backend.view(graph, {value.name: (2, 7, 12) for value in graph.graph.inputs})
    (group,) = [group for group in groups_of(find(net).sites) if group.kind == "attention"]
    footprint = backend.footprint(group, net, load_device("cpu"))
    assert footprint[: len(group.ops)] == group.ops
    assert {net.ops[op].kind for op in footprint[len(group.ops) :]} == {"transpose", "reshape"}
    (linear, *_) = groups_of(find(backend.view(block_model(), SHAPES)).sites)
    assert backend.footprint(linear, net, load_device("cpu")) == linear.ops


def test_int8_activations_are_refused_on_cuda_with_a_sentence():
    backend, net = OnnxBackend(), OnnxBackend().view(block_model(), SHAPES)
    linear = next(group for group in groups_of(find(net).sites) if group.kind == "linear")
    offered = backend.actions(linear, net, load_device("h200"))
    assert {action for action, reason in offered.items() if not reason} == {"float16", "low_rank_half"}
    assert offered["int8_dynamic"] == offered["int8_static"]
    assert "CUDA provider has no int8 matmul" in offered["int8_static"]
    on_cpu = backend.actions(linear, net, load_device("cpu"))
    assert {action for action, reason in on_cpu.items() if reason} == {
        "low_rank_quarter",
        "low_rank_eighth",
        "block_sparse",
        "two_of_four",
    }
    assert "CPU provider has no matrix product with 2:4 weights; half of the weights would take 0.5" in on_cpu["two_of_four"]


def test_sparse_attention_is_offered_to_long_sequences():
    net = OnnxBackend().view(block_model(), SHAPES)
    for target in ("cpu", "h200"):
        (short,) = groups_of([site(129)])
        assert "129 tokens" in OnnxBackend().actions(short, net, load_device(target))["spectral_sparse"]
    (long,) = groups_of([site(1 << 19)])
    assert OnnxBackend().actions(long, net, load_device("cpu"))["spectral_sparse"] == ""


def test_clean_up_changes_the_graph_in_place():
    graph = model("(float[N,3] x) => (float[N,3] y) { a = Identity(x) y = Neg(a) }")
    assert OnnxBackend().clean_up(graph) >= 1
    assert [node.op_type for node in graph.graph] == ["Neg"]
    assert isinstance(graph, ir.Model)


def half(kind: str) -> ir.Model:
    """The block with weights and inputs of another float dtype; its inner values declare none."""
    proto = ir.to_proto(block_model())
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    for weight in proto.graph.initializer:
        weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight).astype(kind), weight.name))
    return ir.from_proto(proto)


@pytest.mark.parametrize("kind", ["float16", "float64"])
@pytest.mark.parametrize("target", ["h200", "cpu"])
@pytest.mark.parametrize("exact", [True, False])
def test_models_of_other_float_dtypes_keep_their_linears_and_say_why(monkeypatch, kind, target, exact):
    set_clock(monkeypatch, {})
    data = [{"x": sample["x"].astype(kind)} for sample in samples(4)]
    result = szilard.rewrite(half(kind), calibration=data, target=target, exact=exact)
    linear = next(choice for choice in result.plan.choices if choice.kind == "linear")
    reasons = {option.action: option.reason for option in linear.options}
    assert linear.action == "leave"
    said = f"its dtype is {kind}, and the integer kernels of onnxruntime's CPU provider read float32"
    assert (said if target == "cpu" else "CUDA provider has no int8 matmul") in reasons["int8_static"]
    assert not any("CPU provider" in reason for reason in reasons.values() if target == "h200")
    assert result.report["error"]["measured"] < 1e-5
    assert result.module(data[0])["y"].dtype == np.dtype(kind)


def test_kernels_that_read_no_float64_are_refused():
    graph = half("float64")
    net = OnnxBackend().view(graph, SHAPES)
    (region,) = [group for group in groups_of(find(net).sites) if group.kind == "region"]
    offered = OnnxBackend().actions(region, net, load_device("cpu"))
    assert (
        offered["skip_layer_norm"]
        == "its dtype is float64, and SkipLayerNormalization of onnxruntime's CPU provider reads float32"
    )
    assert offered["sum_layer_norm"] == ""
    (long,) = groups_of([replace(site(1 << 19), dtype="float16")])
    assert "sparse attention" in OnnxBackend().actions(long, net, load_device("cpu"))["spectral_sparse"]


@pytest.mark.parametrize("limit", [1, backend_onnx.LARGEST_INLINE_BYTES])
def test_lint_compares_declared_types_with_inferred_ones_whatever_the_size(monkeypatch, limit):
    monkeypatch.setattr(backend_onnx, "LARGEST_INLINE_BYTES", limit)
    monkeypatch.setattr(runtime_onnx, "LARGEST_INLINE_BYTES", limit)
    backend, graph = OnnxBackend(), block_model()
    backend.clean_up(graph)
    backend.lint(graph)
    graph.graph.outputs[0].shape = ir.Shape(["batch", 5])
    with pytest.raises(SzilardError, match=r"invalid ONNX graph .*rank"):
        backend.lint(graph)


def test_a_model_that_came_with_a_wrong_shape_is_not_called_a_fault_of_a_pass():
    backend, graph = OnnxBackend(), block_model()
    graph.graph.outputs[0].shape = ir.Shape(["batch", 5, 49])
    backend.clean_up(graph)
    backend.lint(graph)
    next(node for node in graph.graph if node.op_type == "Relu").op_type = "Reluu"
    with pytest.raises(SzilardError, match="Reluu"):
        backend.lint(graph)


def test_operators_of_the_runtime_and_weights_in_files_pass_lint(tmp_path):
    text = "(float[N,4] x) => (float[N,3] y) { h = com.microsoft.QuickGelu(x) g = MatMul(h, w) y = Relu(g) }"
    ir.save(model(text, {"w": normal(0, 4, 3)}), tmp_path / "model.onnx", external_data="weights.data")
    OnnxBackend().lint(ir.load(tmp_path / "model.onnx"))


@pytest.mark.parametrize(
    ("opset", "able"), [(9, {"int8_weight", "int4_weight"}), (10, {"int8_static"}), (11, {"int8_dynamic"})]
)
def test_a_model_in_an_old_operator_set_gets_no_operators_that_it_lacks(opset, able):
    text = "(float[2,3,8,8] x) => (float[2,4,6,3] y) { c = Conv(x, k) y = MatMul(c, w) }"
    old = model(text, {"k": normal(0, 4, 3, 3, 3), "w": normal(1, 6, 3)}, opset)
    backend, net = OnnxBackend(), OnnxBackend().view(old, {"x": (2, 3, 8, 8)})
    offered = {group.kind: backend.actions(group, net, load_device("cpu")) for group in groups_of(find(net).sites)}
    formats = {name for name, reason in offered["linear"].items() if not reason}
    assert able <= formats
    assert ("int8_token" in formats) == ("int8_hilo" in formats) == ("int8_static" in formats) == (opset >= 10)
    assert ("int8_dynamic" in formats) == (opset >= 11)
    assert (offered["conv"]["int8_conv"] == "") == (opset >= 10)
    if opset == 9:
        assert "of opset 10, and the model is in opset 9" in offered["conv"]["int8_conv"]
