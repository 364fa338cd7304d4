"""Tests of kernels/quantized_linear/half_formats.py and onnx_half.py: files for CUDA, run on onnxruntime's CPU provider."""

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from szilard.kernels.quantized_linear.formats import effective_weight, merge, prepare, prepare_group
from szilard.kernels.quantized_linear.half_formats import (
    DTYPE_FORMATS,
    HALF_BITS,
    HALF_FORMATS,
    LARGEST_HALF,
    block_refusal,
    to_half,
)
from szilard.kernels.quantized_linear.onnx_body import runtime_domain_imports
from szilard.kernels.quantized_linear.onnx_half import half_nodes
from szilard.kernels.quantized_linear.reference import simulate

SIZES = [(1, 3, 2), (37, 11, 5), (64, 1, 17), (64, 65, 3), (131, 33, 4), (256, 64, 20), (515, 24, 1)]


def case(features, columns, rows, seed=0):
    generator = np.random.default_rng(seed)
    weight = (generator.normal(size=(features, columns)) / features**0.5).astype(np.float32)
    x = generator.normal(size=(rows, features)).astype(np.float32)
    return weight, generator.normal(size=columns).astype(np.float32), x


def model_of(parts, shape, dtype="float32"):
    """A checked onnx_ir model of the layers, all reading the input "x" of that dtype."""
    x = ir.Value(name="x", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype))))
    halves, nodes, initializers, outputs = {}, [], [], []
    for index, part in enumerate(parts):
        body = half_nodes(part, x, dtype, f"site{index}", halves)
        nodes, initializers, outputs = nodes + body.nodes, initializers + body.initializers, [*outputs, body.output]
    opsets = {"": 20, **runtime_domain_imports()}
    graph = ir.Graph([x], outputs, nodes=nodes, initializers=initializers, opset_imports=opsets, name="linears")
    model = ir.Model(graph, ir_version=10)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return model


def run(parts, x):
    model = model_of(parts, [*(f"D{axis}" for axis in range(x.ndim - 1)), x.shape[-1]], str(x.dtype))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def kinds(model):
    return Counter(node.op_type for node in model.graph)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("action", HALF_FORMATS)
@pytest.mark.parametrize(("features", "columns", "rows"), SIZES)
def test_the_nodes_compute_what_the_reference_does(action, features, columns, rows, dtype):
    weight, bias, x = case(features, columns, rows)
    calibration = case(features, columns, 64, seed=1)[2]
    for seen in (None, calibration):
        prepared = prepare(action, weight, bias, seen)
        (found,) = run([prepared], x.astype(dtype))
        assert (found.dtype, found.shape) == (np.dtype(dtype), (rows, columns))
        expected = simulate(prepared, torch.from_numpy(x)).numpy()
        # Both round to float16, sums in another order.
        assert np.abs(found - expected).max() <= 2e-3 * max(1, np.abs(expected).max())


@pytest.mark.parametrize(
    ("action", "worst"), [("float16", 3e-4), ("int8_weight_float16", 0.012), ("int4_weight_float16", 0.14)]
)
def test_outputs_are_near_the_float_layer(action, worst):
    weight, bias, x = case(192, 65, 200)
    exact = x @ weight + bias
    found = run([prepare(action, weight, bias, x)], x[None])[0][0]
    assert 0 < np.linalg.norm(found - exact) < worst * np.linalg.norm(exact)


def test_rounding_keeps_the_output_and_not_the_weights():
    weight, bias, x = case(128, 16, 500)
    x = x @ np.random.default_rng(2).normal(size=(128, 128)).astype(np.float32)
    blind, seeing = (prepare("int4_weight_float16", weight, bias, seen) for seen in (None, x))
    errors = [np.linalg.norm(x @ (effective_weight(each) - weight)) for each in (blind, seeing)]
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize(
    ("action", "features", "block", "columns"),
    [
        ("int8_weight_float16", 256, 128, 32),
        ("int8_weight_float16", 192, 64, 32),
        ("int4_weight_float16", 256, 64, 64),
        ("int4_weight_float16", 37, 64, 64),
    ],
)
@pytest.mark.parametrize("layers", [(1,), (65,), (64,), (96,), (192, 7)])
def test_blocks_and_columns_are_what_the_kernels_take(action, features, block, columns, layers):
    parts = prepare_group(action, [case(features, width, 1)[0] for width in layers], [None] * len(layers))
    model = model_of(parts, ["B", "L", features])
    nodes = [node for node in model.graph if node.op_type == "MatMulNBits"]
    for node, width in zip(nodes, layers, strict=True):
        assert node.attributes.get_int("block_size") == block
        assert node.attributes.get_int("N") == -(-width // columns) * columns
        assert node.attributes.get_int("K") == features
        assert [value.dtype for value in node.inputs] == [ir.DataType.FLOAT16, ir.DataType.UINT8, ir.DataType.FLOAT16]
    assert kinds(model)["Slice"] == sum(width % columns != 0 for width in layers)
    assert [value.shape[-1] for value in model.graph.outputs] == list(layers)


@pytest.mark.parametrize("action", HALF_FORMATS)
def test_a_group_casts_its_input_once_and_layers_of_float16_none(action):
    weights = [case(64, width, 1)[0] for width in (64, 32, 5)]
    parts = prepare_group(action, weights, [np.ones(64, np.float32), None, None])
    assert kinds(model_of(parts, ["B", "L", 64]))["Cast"] == 1 + 3
    assert kinds(model_of(parts, ["B", "L", 64], "float16"))["Cast"] == 0


@pytest.mark.parametrize("action", HALF_FORMATS)
def test_a_layer_without_bias_gets_none(action):
    weight, bias, x = case(64, 9, 40)
    x = x + 2
    (alone,) = prepare_group(action, [weight], [None], x)
    (corrected,) = prepare_group(action, [weight], [bias], x)
    assert kinds(model_of([alone], ["M", 64]))["Add"] == 0
    assert kinds(model_of([corrected], ["M", 64]))["Add"] == 1
    mean_error = (x @ (weight - effective_weight(corrected)) + bias - corrected.tensors["bias"]).mean(axis=0)
    assert np.abs(mean_error).max() < 1e-4
    assert np.abs(corrected.tensors["bias"] - bias).max() > 0


@pytest.mark.parametrize("action", HALF_FORMATS)
def test_a_merged_layer_is_its_parts(action):
    weight, bias, x = case(70, 12, 8)
    parts = prepare_group(action, [weight[:, :7], weight[:, 7:]], [bias[:7], bias[7:]], x)
    merged = merge(parts)
    assert merged.tensors["splits"].tolist() == [7, 5]
    np.testing.assert_allclose(run([merged], x)[0], np.concatenate(run(parts, x), axis=1), rtol=2e-3, atol=2e-3)


def test_the_input_the_product_and_the_sum_are_rounded():
    rows = torch.tensor([[1 + 2.0**-12, 0.0], [1.0, 2.0**-12]])
    assert simulate(prepare("float16", np.ones((2, 1), np.float32)), rows).tolist() == [[1.0], [1.0]]
    biased = prepare("float16", np.ones((2, 1), np.float32), np.array([2048.7], np.float32))
    assert simulate(biased, rows).tolist() == [[2048.0], [2048.0]]


def test_bfloat16_rounds_the_input_and_once_the_sum_with_its_bias():
    rows = torch.tensor([[1 + 2.0**-9, 0.0], [256.0, 1.0]])
    prepared = prepare("bfloat16", np.array([[1 + 2.0**-9], [1.0]], np.float32), np.array([1.0], np.float32))
    assert prepared.tensors["weight"].tolist() == [[1.0], [1.0]]
    # 256 + 1 alone is 256 in 8 bits, and with the bias before it is rounded 258.
    assert simulate(prepared, rows).tolist() == [[2.0], [258.0]]
    assert np.isfinite(prepare("bfloat16", np.full((1, 1), 3e38, np.float32)).tensors["weight"]).all()


@pytest.mark.parametrize("action", DTYPE_FORMATS)
def test_layers_in_a_dtype_lose_their_mean_error_to_the_bias_they_have(action):
    weight, bias, x = case(64, 9, 40)
    x = x + 2
    (alone,) = prepare_group(action, [weight], [None], x)
    (corrected,) = prepare_group(action, [weight], [bias], x)
    assert not alone.tensors["bias"].any()
    mean_error = (x @ (weight - effective_weight(corrected)) + bias - corrected.tensors["bias"]).mean(axis=0)
    assert np.abs(mean_error).max() < 1e-4
    assert np.abs(corrected.tensors["bias"] - bias).max() > 0


def test_few_bits_are_held_by_scales_of_float16():
    for action in HALF_BITS:
        weight = np.zeros((128, 3), np.float32)
        weight[:, 1], weight[:, 2] = 1e-9, 6e4
        found = effective_weight(prepare(action, weight))
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found, weight, atol=1e-5, rtol=1e-3)


def test_what_float16_does_not_hold():
    assert to_half(np.array([1e6, -1e6, 1.0])).tolist() == [LARGEST_HALF, -LARGEST_HALF, 1.0]
    assert block_refusal("float16", 65) == "" == block_refusal("int4_weight_float16", 192)
    assert "65 inputs are no multiple" in block_refusal("int8_weight_float16", 65)
