"""int8 weights with one scale a column: the rounding keeps the layer's output, and the module runs the reference's arithmetic."""

import numpy as np
import pytest
import torch

from szilard.kernels.quantized_linear import torch_cuda
from szilard.kernels.quantized_linear.formats import TRITON_FORMATS, effective_weight, merge, prepare, prepare_group
from szilard.kernels.quantized_linear.reference import simulate
from szilard.kernels.quantized_linear.torch_cuda import build

FORMAT = "int8_column_weight"


def layer(features: int, columns: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    mixed = draw.standard_normal((90, features)) @ draw.standard_normal((features, features)) / features**0.5
    return draw.standard_normal((features, columns)), draw.standard_normal(columns), mixed.astype(np.float32)


@pytest.mark.parametrize(("features", "columns"), [(1, 1), (37, 11), (64, 33)])
def test_the_module_equals_the_reference(features, columns):
    weight, bias, x = layer(features, columns)
    prepared = prepare(FORMAT, weight, bias, x)
    assert prepared.tensors["weight"].dtype == np.int8
    assert np.abs(prepared.tensors["weight"]).max() == 127
    inputs = torch.from_numpy(x[:30]).reshape(2, 15, features)
    found, wanted = build(prepared)(inputs), simulate(prepared, inputs.reshape(-1, features)).reshape(2, 15, columns)
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-4)
    exact = x[:30] @ weight + bias
    assert np.linalg.norm(wanted.reshape(30, columns).numpy() - exact) < 0.01 * np.linalg.norm(exact)


def test_half_precision_inputs_keep_their_dtype():
    weight, bias, x = layer(37, 11)
    prepared = prepare(FORMAT, weight, bias)
    half = torch.from_numpy(x).half()
    found = build(prepared)(half)
    assert found.dtype == torch.float16
    assert torch.allclose(found.float(), simulate(prepared, half.float()), rtol=2e-3, atol=2e-2)


def test_calibration_lowers_the_error_of_the_output():
    weight, bias, x = layer(64, 33)
    errors = [
        np.linalg.norm(x @ (effective_weight(made) - weight) + made.tensors["bias"] - bias)
        for made in (prepare(FORMAT, weight, bias, x), prepare(FORMAT, weight, bias))
    ]
    assert errors[0] < 0.9 * errors[1]


def test_merged_layers_stand_side_by_side():
    (first, bias, x), (second, _, _) = layer(37, 11), layer(37, 20, seed=1)
    parts = prepare_group(FORMAT, [first, second], [bias, None], x)
    wide = merge(parts)
    assert wide.tensors["splits"].tolist() == [11, 20]
    inputs = torch.from_numpy(x)
    apart = torch.cat([build(part)(inputs) for part in parts], dim=-1)
    assert torch.allclose(build(wide)(inputs), apart, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("action", TRITON_FORMATS)
def test_every_format_runs_the_references_arithmetic_alone_and_merged(action):
    """130 rows: more than two groups, and no whole number of them."""
    (first, bias, x), (second, _, _) = layer(130, 11), layer(130, 20, seed=1)
    parts = prepare_group(action, [first, second], [bias, None], x)
    inputs = torch.from_numpy(x)
    apart = torch.cat([build(part)(inputs) for part in parts], dim=-1)
    wanted = torch.cat([simulate(part, inputs) for part in parts], dim=-1)
    assert torch.allclose(apart, wanted, rtol=1e-4, atol=1e-3)
    assert torch.allclose(build(merge(parts))(inputs), apart, rtol=1e-5, atol=1e-3)
    exact = torch.from_numpy((x @ np.concatenate([first, second], axis=1)).astype(np.float32)) + torch.from_numpy(
        np.concatenate([bias, np.zeros(20)]).astype(np.float32)
    )
    error = float((apart - exact).norm() / exact.norm())
    assert error < {"int8_column_weight": 0.01, "int4_group_weight": 0.12, "fp8_column_weight": 0.03, "fp8_token": 0.05}[action]


def test_modules_are_built_again_from_their_repr():
    for action in TRITON_FORMATS:
        module = build(prepare(action, *layer(70, 9)))
        again = eval(repr(module), {name: getattr(torch_cuda, name) for name in dir(torch_cuda)})
        again.load_state_dict(module.state_dict())
        x = torch.randn(3, 70)
        assert torch.equal(again(x), module(x))
