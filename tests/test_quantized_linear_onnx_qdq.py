"""Linears between QuantizeLinear and DequantizeLinear: every runtime computes what the reference of the format does."""

import numpy as np
import onnx_ir as ir
import pytest
import torch

from szilard.kernels.quantized_linear.formats import effective_weight, merge, prepare, prepare_group
from szilard.kernels.quantized_linear.onnx_body import QuantizedInputs
from szilard.kernels.quantized_linear.onnx_qdq import BLOCK_FORMATS, COLUMN_FORMATS, linear_nodes
from szilard.kernels.quantized_linear.reference import simulate
from szilard.rewriter.onnx_as_run import as_onnxruntime_runs

from .quantized_linear_session import split_nodes
from .standard_onnx_runs import WAYS, outputs

FORMATS = (*COLUMN_FORMATS, *BLOCK_FORMATS)


def group_of(action: str, features: int = 50, outlier: bool = False):
    generator = np.random.default_rng(3)
    weights = [generator.normal(size=(features, columns)).astype(np.float32) for columns in (9, 4, 13)]
    x = generator.normal(size=(90, features)).astype(np.float32)
    x[:, 7] *= 25 if outlier else 1
    return prepare_group(action, weights, [np.ones(9, np.float32), None, None], x)


def model_of(parts, shape, opset: int = 21) -> ir.Model:
    x = ir.Value(name="x", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
    shared, nodes, initializers, results = QuantizedInputs(opset), [], [], []
    for index, part in enumerate(parts):
        body = linear_nodes(part, x, f"site{index}", shared)
        nodes, initializers = [*nodes, *body.nodes], [*initializers, *body.initializers]
        if "splits" not in part.tensors:
            results.append(body.output)
            continue
        cut, values, sizes = split_nodes(part, body.output, [f"part{i}" for i in range(len(part.tensors["splits"]))])
        nodes, initializers, results = nodes + cut, initializers + sizes, results + values
    graph = ir.Graph([x], results, nodes=nodes, initializers=initializers, opset_imports={"": opset}, name="linears")
    return ir.Model(graph, ir_version=10)


def wanted(prepared, x: np.ndarray, rounds_x: bool) -> np.ndarray:
    """What the format computes; without `rounds_x` a weight format multiplies inputs as they are."""
    rows = torch.from_numpy(x.reshape(-1, x.shape[-1]))
    if prepared.base in BLOCK_FORMATS and not rounds_x:
        y = rows.numpy() @ effective_weight(prepared) + prepared.tensors["bias"]
    else:
        y = simulate(prepared, rows).numpy()
    return y.reshape(*x.shape[:-1], prepared.out_features)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", [(7, 50), (2, 3, 50), (1, 70)])
@pytest.mark.parametrize("action", FORMATS)
def test_every_way_of_running_it_computes_what_the_reference_does(action, shape, way):
    x = np.random.default_rng(4).normal(size=shape).astype(np.float32)
    x[..., 7] *= 25
    group = group_of(action, shape[-1], outlier=True)
    model = model_of(group, [f"D{axis}" if axis + 1 < len(shape) else size for axis, size in enumerate(shape)])
    fused = {node.op_type for node in as_onnxruntime_runs(model).graph} if way == "optimised" else set()
    for prepared, y in zip(group, outputs(model, {"x": x}, way), strict=True):
        expected = wanted(prepared, x, rounds_x="MatMulNBits" in fused)
        assert y.shape == expected.shape
        scale = np.abs(expected).max()
        np.testing.assert_allclose(y, expected, rtol=0, atol=(1e-3 if "MatMulNBits" in fused else 1e-5) * scale)


@pytest.mark.parametrize("shape", [["M", 64], ["B", "L", 64], ["B", 7, 64], [5, 7, 64], [5, 64]])
@pytest.mark.parametrize("action", FORMATS)
def test_onnxruntime_knows_the_pattern(action, shape):
    operators = {**dict.fromkeys(COLUMN_FORMATS, "MatMulIntegerToFloat"), "int8_dynamic": "DynamicQuantizeMatMul"}
    found = [node.op_type for node in as_onnxruntime_runs(model_of(group_of(action, 64)[:1], shape)).graph]
    assert found.count(operators.get(action, "MatMulNBits")) == (2 if action == "int8_hilo" else 1)
    assert not {"MatMul", "Gemm"} & set(found)
    # That of the coarse codes, of which the fine ones are what is left.
    assert found.count("DequantizeLinear") == (1 if action == "int8_hilo" else 0)


def test_a_group_quantises_its_input_once():
    found = [node.op_type for node in model_of(group_of("int8_static"), ["B", "L", 50]).graph]
    assert [found.count(kind) for kind in ("QuantizeLinear", "DequantizeLinear", "MatMul", "Add")] == [1, 6, 3, 3]
    moved = [node.op_type for node in model_of(group_of("int8_static", outlier=True), ["M", 50]).graph]
    assert moved.count("Mul") == 1


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize("action", COLUMN_FORMATS)
def test_scales_of_columns_are_of_an_older_operator_set(action, opset):
    x = np.random.default_rng(5).normal(size=(5, 50)).astype(np.float32)
    group = group_of(action)
    for prepared, y in zip(group, outputs(model_of(group, ["M", 50], opset), {"x": x}, "as written"), strict=True):
        np.testing.assert_allclose(y, wanted(prepared, x, False), rtol=0, atol=1e-4)


@pytest.mark.parametrize("action", FORMATS)
def test_a_merged_layer_splits_into_its_parts(action):
    x = np.random.default_rng(6).normal(size=(8, 50)).astype(np.float32)
    group = group_of(action, outlier=True)
    separate = outputs(model_of(group, ["M", 50]), {"x": x}, "as written")
    merged = outputs(model_of([merge(group)], ["M", 50]), {"x": x}, "as written")
    assert len(merged) == 3
    for one, other in zip(separate, merged, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_codes_of_four_bits_are_packed_and_keep_their_zeros():
    weight = np.random.default_rng(7).uniform(0.5, 1, (64, 5)).astype(np.float32)
    prepared = prepare("int4_weight", weight)
    assert "weight_zero" in prepared.tensors
    held = {value.name: value.const_value for value in linear_nodes(prepared, ir.Value(name="x"), "site").initializers}
    assert [held[f"site_{role}"].dtype for role in ("weight", "weight_zero")] == [ir.DataType.UINT4] * 2
    assert held["site_weight"].nbytes == 64 * 5 // 2
    centred = prepare("int8_weight", weight)
    held = {value.name: value.const_value for value in linear_nodes(centred, ir.Value(name="x"), "site").initializers}
    assert held["site_weight"].dtype == ir.DataType.INT8
