"""Convolutions on u8 codes: onnxruntime computes what the reference does, and what is prepared keeps the output.

Covers kernels/quantized_conv."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.cost_model.cpu_features import products_saturate
from szilard.cost_model.errors import InputError
from szilard.kernels.quantized_conv.codes import Codes, dequantize, quantize, value_codes
from szilard.kernels.quantized_conv.formats import Geometry, convolve, effective, folded, prepare
from szilard.kernels.quantized_conv.onnx_body import conv_nodes, dequantize_nodes, quantize_nodes
from szilard.kernels.quantized_conv.reference import simulate

from .onnx_graphs import run


def floats(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, geometry: Geometry) -> np.ndarray:
    return convolve(*map(torch.from_numpy, (x, weight, bias)), geometry).numpy()


def in_onnxruntime(made, x: np.ndarray) -> np.ndarray:
    """Quantised, convolved on codes and made a float again by the nodes of onnx_body."""
    value = ir.Value(name="x", shape=ir.Shape(x.shape), type=ir.TensorType(ir.DataType.FLOAT))
    first = quantize_nodes(value, made.x, x.ndim, "q")
    middle = conv_nodes(made, first.output, "c")
    nodes, y, more = dequantize_nodes(middle.output, x.ndim, "d")
    y.shape = ir.Shape(["N", "C", *"PQ"[: x.ndim - 2]])
    graph = ir.Graph(
        [value], [y], nodes=[*first.nodes, *middle.nodes, *nodes], name="conv", opset_imports={"": 17, "com.microsoft": 1},
        initializers=[*first.initializers, *middle.initializers, *more],
    )  # fmt: skip
    return run(ir.Model(graph, ir_version=8), {"x": x})[0]


@st.composite
def cases(draw):
    axes, groups = draw(st.integers(1, 2)), draw(st.sampled_from([1, 2, 5]))
    inputs, outputs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    kernel, dilations = [draw(st.integers(1, 3)) for _ in range(axes)], [draw(st.integers(1, 2)) for _ in range(axes)]
    sizes = [draw(st.integers(5, 9)) for _ in range(axes)]
    geometry = Geometry(
        tuple(draw(st.integers(1, 2)) for _ in range(axes)), tuple(draw(st.integers(0, 2)) for _ in range(2 * axes)),
        tuple(dilations), groups,
    )  # fmt: skip
    random = np.random.default_rng(draw(st.integers(0, 2**31)))
    x = random.standard_normal((2, inputs, *sizes)).astype(np.float32) * random.uniform(0.2, 2, (1, inputs, *(1,) * axes))
    weight = random.standard_normal((outputs, inputs // groups, *kernel)).astype(np.float32)
    return x.astype(np.float32), weight, random.standard_normal(outputs).astype(np.float32), geometry


@settings(max_examples=25, deadline=None)
@given(cases(), st.booleans())
def test_the_nodes_compute_what_the_reference_does(case, clipped):
    x, weight, bias, geometry = case
    y = floats(x, weight, bias, geometry).clip(0 if clipped else -np.inf, None)
    made = prepare(weight, bias, geometry, value_codes([x]), value_codes([y]), [x], narrow=products_saturate())
    got = in_onnxruntime(made, x)
    want = dequantize(simulate(made, quantize(x, made.x)), made.y)
    steps = np.abs(got - want) / made.y.scale
    # Where a sum lies half way between two codes, the float32 scaling of the runtime may go either way.
    assert steps.max() < 1.01
    assert (steps > 0.5).mean() < 0.02
    assert np.sum((got - y) ** 2) < 0.01 * np.sum(y**2) + 0.01
    assert not clipped or got.min() >= 0


@settings(max_examples=25, deadline=None)
@given(cases())
def test_integers_stand_for_nearly_the_same_weights(case):
    x, weight, bias, geometry = case
    made = prepare(weight, bias, geometry, value_codes([x]), Codes(1.0, 0))
    held, shift = effective(made)
    assert held.shape == weight.shape
    np.testing.assert_allclose(held, weight, atol=np.abs(weight).max() * 0.6 / 127)
    np.testing.assert_allclose(shift, bias, atol=made.x.scale * made.weight_scale.max())


def test_calibration_inputs_keep_the_output_of_a_channel_and_its_mean():
    random = np.random.default_rng(0)
    mixed = random.standard_normal((6, 6)).astype(np.float32)
    x = np.einsum("dc,bchw->bdhw", mixed, random.standard_normal((4, 6, 9, 9))).astype(np.float32) + 0.7
    weight, bias = random.standard_normal((8, 6, 3, 3)).astype(np.float32), np.zeros(8, np.float32)
    geometry = Geometry((1, 1), (1, 1, 1, 1), (1, 1), 1)
    codes = value_codes([x])
    exact = floats(x, weight, bias, geometry)
    errors, shifts = [], []
    for samples in ([], [x]):
        held = prepare(weight, bias, geometry, codes, codes, samples, narrow=True)
        change = floats(x, *effective(held), geometry) - exact
        errors.append(np.sum(change**2))
        shifts.append(np.abs(change.mean(axis=(0, 2, 3))).max())
    assert errors[1] < 0.7 * errors[0]
    assert shifts[1] < codes.scale * held.weight_scale.max() < shifts[0]


def test_narrow_weights_keep_to_seven_bits():
    weight = np.random.default_rng(0).standard_normal((3, 4, 3)).astype(np.float32)
    geometry, codes = Geometry((1,), (0, 0), (1,), 1), Codes(1.0, 0)
    assert np.abs(prepare(weight, None, geometry, codes, codes, narrow=True).weight).max() == 63
    assert np.abs(prepare(weight, None, geometry, codes, codes).weight).max() == 127


def test_a_batch_norm_is_folded_in():
    random = np.random.default_rng(1)
    weight, bias = random.standard_normal((4, 3, 3)).astype(np.float32), random.standard_normal(4).astype(np.float32)
    norm = {name: random.uniform(0.5, 1, 4).astype(np.float32) for name in ("gamma", "beta", "mean", "variance")}
    x, geometry = random.standard_normal((2, 3, 8)).astype(np.float32), Geometry((1,), (1, 1), (1,), 1)
    y = floats(x, weight, bias, geometry)
    spread = np.sqrt(norm["variance"] + 1e-3)
    want = (y - norm["mean"][:, None]) / spread[:, None] * norm["gamma"][:, None] + norm["beta"][:, None]
    np.testing.assert_allclose(floats(x, *folded(weight, bias, norm, 1e-3), geometry), want, atol=1e-5)


def test_bytes_are_held_exactly_and_positive_values_from_code_zero():
    image = (np.arange(256, dtype=np.float32).reshape(1, 1, 16, 16) - 127) / 128
    codes = value_codes([image])
    assert np.array_equal(dequantize(quantize(image, codes), codes), image)
    assert value_codes([np.abs(image)]).zero == 0
    assert value_codes([np.zeros((1, 2, 3), np.float32)]) == Codes(1.0, 0)


def test_a_lone_outlier_is_clipped():
    x = np.random.default_rng(0).standard_normal((1, 1, 400000)).astype(np.float32)
    x[0, 0, 7] = 14
    assert value_codes([x]).scale < 0.9 * (14 - x.min()) / 255


def test_what_is_not_finite_is_refused():
    geometry, codes = Geometry((1,), (0, 0), (1,), 1), Codes(1.0, 0)
    with pytest.raises(InputError, match="not finite"):
        value_codes([np.full((1, 1, 3), np.nan, np.float32)])
    with pytest.raises(InputError, match="not finite"):
        prepare(np.full((1, 1, 3), np.inf, np.float32), None, geometry, codes, codes)


def test_a_channel_without_weights_keeps_its_bias():
    """As a batch norm leaves it whose gamma is all but zero."""
    weight = np.random.default_rng(0).standard_normal((3, 2, 3)).astype(np.float32)
    weight[0] *= 1e-9
    weight[1] = 0
    bias, geometry = np.array([0.5, 0.3, -0.2], np.float32), Geometry((1,), (0, 0), (1,), 1)
    for step in (0.02, 1.0):
        made = prepare(weight, bias, geometry, Codes(step, 0), Codes(step, 0))
        held, shift = effective(made)
        np.testing.assert_allclose(shift, bias, atol=1e-6 + step * made.weight_scale[2])
        np.testing.assert_allclose(held, weight, atol=made.weight_scale[2])
        assert np.abs(made.bias[:2].astype(np.int64)).max() <= 1 << 30
