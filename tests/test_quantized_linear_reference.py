"""Tests of kernels/quantized_linear/reference.py: the simulated arithmetic is onnxruntime's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.kernels.quantized_linear.formats import (
    CALIBRATED,
    FORMATS,
    INTEGER_INPUTS,
    effective_weight,
    merge,
    prepare,
    prepare_group,
)
from szilard.kernels.quantized_linear.reference import dynamic_range, simulate

from .quantized_linear_session import run


def case(features, columns, rows, seed=0):
    generator = np.random.default_rng(seed)
    weight = (generator.normal(size=(features, columns)) / features**0.5).astype(np.float32)
    x = generator.normal(size=(rows, features)).astype(np.float32)
    x[:, 0] *= 20
    return weight, generator.normal(size=columns).astype(np.float32), x


@pytest.mark.parametrize("action", FORMATS)
@pytest.mark.parametrize(("features", "columns", "rows"), [(1, 3, 2), (37, 11, 5), (96, 1, 1), (131, 33, 17), (515, 24, 9)])
def test_it_equals_onnxruntime(action, features, columns, rows):
    weight, bias, x = case(features, columns, rows)
    calibration = case(features, columns, 64, seed=1)[2]
    for seen in [calibration] if action in CALIBRATED else [None, calibration]:
        prepared = prepare(action, weight, bias, seen)
        expected = run([prepared], x)[0]
        # MatMulNBits subtracts its zero point after the sum, which costs some digits.
        tolerance = 2e-6 if action in INTEGER_INPUTS else 2e-4
        assert np.abs(simulate(prepared, torch.from_numpy(x)).numpy() - expected).max() <= tolerance * np.abs(expected).max()


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["int8_token", "int8_hilo"]),
    st.integers(1, 70),
    st.integers(1, 20),
    st.integers(1, 9),
    st.integers(0, 2**31),
    st.floats(1e-4, 1e4),
    st.booleans(),
)
def test_any_size_equals_onnxruntime(action, features, columns, rows, seed, size, one_sided):
    weight, bias, x = case(features, columns, rows, seed)
    calibration = case(features, columns, 40, seed + 1)[2]
    if one_sided:
        x, calibration = np.maximum(x, -0.1), np.maximum(calibration, -0.1)
    x, calibration = x * np.float32(size), calibration * np.float32(size)
    prepared = prepare(action, weight, bias, calibration)
    expected = run([prepared], x)[0]
    assert np.abs(simulate(prepared, torch.from_numpy(x)).numpy() - expected).max() <= 4e-6 * np.abs(expected).max()


def test_more_bits_of_the_input_cost_less_accuracy():
    weight, bias, x = case(96, 30, 300)
    x[::3] *= 0.05
    errors = {}
    for action in INTEGER_INPUTS:
        prepared = prepare(action, weight, bias, x)
        with_these_weights = x @ effective_weight(prepared) + prepared.tensors["bias"]
        errors[action] = np.linalg.norm(simulate(prepared, torch.from_numpy(x)).numpy() - with_these_weights)
    assert errors["int8_hilo"] < 0.1 * errors["int8_token"] < 0.1 * errors["int8_dynamic"]


@pytest.mark.parametrize("action", FORMATS)
def test_a_merged_layer_is_its_parts(action):
    weight, bias, x = case(43, 12, 8)
    parts = prepare_group(action, [weight[:, :7], weight[:, 7:]], [bias[:7], None], x)
    rows = torch.from_numpy(x)
    separate = torch.cat([simulate(part, rows) for part in parts], dim=1)
    torch.testing.assert_close(simulate(merge(parts), rows), separate, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("action", FORMATS)
def test_zero_inputs_give_the_bias(action):
    weight, bias, x = case(19, 5, 30)
    prepared = prepare(action, weight, bias, x)
    zeros = torch.zeros(3, 19)
    torch.testing.assert_close(simulate(prepared, zeros), torch.from_numpy(prepared.tensors["bias"]).expand(3, 5))


def test_rounding_the_input_adds_error_to_that_of_the_weights():
    weight, bias, x = case(128, 40, 200)
    prepared = prepare("int8_dynamic", weight, bias)
    rows = torch.from_numpy(x)
    exact, weights_only = x @ weight + bias, x @ effective_weight(prepared) + bias
    both = simulate(prepared, rows).numpy()
    assert np.linalg.norm(both - exact) > 1.5 * np.linalg.norm(weights_only - exact)
    assert np.linalg.norm(both - exact) < 0.1 * np.linalg.norm(exact)


def test_the_dynamic_range_covers_the_tensor():
    x = torch.tensor([[-1.0, 3.0]])
    scale, zero = dynamic_range(x)
    assert float(scale) == pytest.approx(4 / 255)
    assert float(zero) == 64
    assert [float(v) for v in dynamic_range(torch.zeros(2, 2))] == [1.0, 0.0]
