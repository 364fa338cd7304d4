"""Tests of kernels/quantized_linear/onnx_body.py."""

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from szilard.kernels.quantized_linear.formats import FORMATS, merge, prepare, prepare_group

from .quantized_linear_session import model_of, run

ROWS = {"ReduceMax": 1, "Max": 1, "Reciprocal": 1, "QuantizeLinear": 1}


def group_of(action, outlier=False):
    generator = np.random.default_rng(3)
    weights = [generator.normal(size=(50, columns)).astype(np.float32) for columns in (9, 4, 13)]
    x = generator.normal(size=(90, 50)).astype(np.float32)
    x[:, 7] *= 25 if outlier else 1
    return weights, x, prepare_group(action, weights, [np.ones(9, np.float32), None, None], x)


def kinds(model):
    return Counter(node.op_type for node in model.graph)


@pytest.mark.parametrize("action", FORMATS)
@pytest.mark.parametrize("shape", [(6, 50), (2, 3, 50), (1, 50)])
def test_outputs_are_near_the_float_layers(action, shape):
    weights, _, group = group_of(action)
    x = np.random.default_rng(4).normal(size=shape).astype(np.float32)
    for weight, prepared, y in zip(weights, group, run(group, x), strict=True):
        exact = x @ weight + (1 if weight.shape[1] == 9 else 0)
        assert y.shape == exact.shape
        assert np.linalg.norm(y - exact) < (0.15 if action == "int4_weight" else 0.02) * np.linalg.norm(exact), prepared.action


@pytest.mark.parametrize(
    ("action", "outlier", "expected"),
    [
        ("int8_dynamic", False, {"DynamicQuantizeLinear": 1, "MatMulIntegerToFloat": 3}),
        ("int8_static", False, {"QuantizeLinear": 1, "MatMulIntegerToFloat": 3}),
        ("int8_static", True, {"Mul": 1, "QuantizeLinear": 1, "MatMulIntegerToFloat": 3}),
        ("int8_hilo", True, {"QuantizeLinear": 2, "DequantizeLinear": 1, "Sub": 1, "MatMulIntegerToFloat": 6, "Add": 3}),
        ("int8_token", False, {**ROWS, "ReduceMin": 1, "Mul": 5, "MatMulIntegerToFloat": 3, "Add": 3}),
        ("int8_weight", False, {"MatMulNBits": 3}),
        ("int4_weight", False, {"MatMulNBits": 3}),
    ],
)
def test_a_group_quantises_its_input_once(action, outlier, expected):
    assert kinds(model_of(group_of(action, outlier)[2], ["B", "L", 50])) == expected


def test_layers_with_other_scales_do_not_share():
    weights, x, group = group_of("int8_static")
    other = prepare("int8_static", weights[0], None, 2 * x)
    assert kinds(model_of([group[0], other], ["M", 50]))["QuantizeLinear"] == 2


def test_layers_with_other_migrations_do_not_share():
    moved = group_of("int8_static", outlier=True)[2][0]
    multipliers = moved.tensors["input_scale"][::-1].copy()
    other = replace(moved, tensors={**moved.tensors, "input_scale": multipliers})
    assert kinds(model_of([moved, other], ["M", 50]))["QuantizeLinear"] == 2


@pytest.mark.parametrize("action", ["int8_weight", "int4_weight"])
def test_weight_only_layers_ask_for_integer_sums(action):
    nodes = [node for node in model_of(group_of(action)[2], ["M", 50]).graph if node.op_type == "MatMulNBits"]
    assert {node.attributes.get_int("accuracy_level") for node in nodes} == {4}


@pytest.mark.parametrize("action", FORMATS)
def test_a_merged_layer_splits_into_its_parts(action):
    _, x, group = group_of(action, outlier=True)
    separate, merged = run(group, x[:8]), run([merge(group)], x[:8])
    assert len(merged) == 3
    for one, other in zip(separate, merged, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("action", FORMATS)
def test_the_file_is_valid_and_typed(action):
    model = model_of(group_of(action, outlier=True)[2], ["B", "L", 50])
    onnx.checker.check_model(ir.to_proto(model))
    assert [list(output.shape)[-1] for output in model.graph.outputs] == [9, 4, 13]
    assert all(value.type is not None for node in model.graph for value in node.outputs)


@pytest.mark.parametrize("action", FORMATS)
def test_zero_inputs_give_the_bias(action):
    _, _, group = group_of(action)
    for prepared, y in zip(group, run(group, np.zeros((2, 50), np.float32)), strict=True):
        np.testing.assert_allclose(y, np.broadcast_to(prepared.tensors["bias"], y.shape), rtol=1e-6)
