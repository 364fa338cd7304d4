"""Tests of kernels/quantized_linear/torch_cpu.py: the module that is emitted is the module that is tested."""

import copy

import numpy as np
import pytest
import torch

from szilard.kernels.quantized_linear import torch_cpu
from szilard.kernels.quantized_linear.formats import FORMATS, INTEGER_INPUTS, effective_weight, merge, prepare, prepare_group
from szilard.kernels.quantized_linear.reference import simulate


def prepared_of(action, features, columns, outlier=False):
    generator = np.random.default_rng(features)
    weight = (generator.normal(size=(features, columns)) / features**0.5).astype(np.float32)
    x = generator.normal(size=(200, features)).astype(np.float32)
    x[:, 0] *= 25 if outlier else 1
    return prepare(action, weight, generator.normal(size=columns).astype(np.float32), x), torch.from_numpy(x)


def check(prepared, module, x):
    """The integer formats equal their reference; weight-only ones multiply x, in bf16 at worst, by the weight they stand for."""
    y = module(x)
    if prepared.base in INTEGER_INPUTS:
        torch.testing.assert_close(y, simulate(prepared, x), rtol=1e-4, atol=1e-4)
        return
    exact = x @ torch.from_numpy(effective_weight(prepared)) + torch.from_numpy(prepared.tensors["bias"])
    assert float((y - exact).norm() / exact.norm()) < (1e-5 if prepared.base == "int8_weight" else 5e-3)


@pytest.mark.parametrize("action", FORMATS)
@pytest.mark.parametrize(("features", "columns"), [(1, 1), (37, 11), (96, 16), (130, 33), (384, 48)])
def test_numbers(action, features, columns):
    prepared, x = prepared_of(action, features, columns, outlier=features == 130)
    module = torch_cpu.build(prepared)
    check(prepared, module, x[:7])
    check(prepared, module, x[:1])
    assert module(x[:6].reshape(2, 3, features)).shape == (2, 3, columns)
    assert module(torch.zeros(2, features)).isfinite().all()


@pytest.mark.parametrize("action", FORMATS)
def test_the_emitted_source_builds_the_same_module(action):
    prepared, x = prepared_of(action, 64, 21, outlier=True)
    module = torch_cpu.build(prepared)
    names = {"torch": torch}
    exec(torch_cpu.module_source(action), names)
    emitted = eval(repr(module), names)
    assert type(emitted) is not type(module)
    emitted.load_state_dict(module.state_dict())
    assert torch.equal(emitted(x), module(x))


@pytest.mark.parametrize("action", FORMATS)
def test_a_merged_module_gives_all_columns(action):
    generator = np.random.default_rng(0)
    weights = [generator.normal(size=(40, columns)).astype(np.float32) for columns in (5, 16)]
    x = generator.normal(size=(90, 40)).astype(np.float32)
    group = prepare_group(action, weights, [None, None], x)
    rows = torch.from_numpy(x[:9])
    wide = torch_cpu.build(merge(group))(rows)
    torch.testing.assert_close(wide, torch.cat([torch_cpu.build(part)(rows) for part in group], dim=1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("action", ["int8_static", "int8_dynamic", "int4_weight"])
def test_loading_weights_after_a_call_takes_effect_and_copies_work(action):
    first, x = prepared_of(action, 32, 16)
    second, _ = prepared_of(action, 32, 16)
    second.tensors["weight"][:] = 255 - second.tensors["weight"] if action == "int4_weight" else -second.tensors["weight"]
    module = torch_cpu.build(first)
    module(x)
    duplicate = copy.deepcopy(module)
    assert torch.equal(duplicate(x), module(x))
    module.load_state_dict(torch_cpu.build(second).state_dict())
    assert torch.equal(module(x), torch_cpu.build(second)(x))
    assert not torch.equal(module(x), duplicate(x))


@pytest.mark.parametrize("action", ["int8_static", "int8_dynamic"])
def test_without_onednn_the_sums_are_the_same(action, monkeypatch):
    prepared, x = prepared_of(action, 51, 9, outlier=True)
    fast = torch_cpu.build(prepared)(x)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    torch.testing.assert_close(torch_cpu.build(prepared)(x), fast, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("action", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_output_has_the_dtype_of_the_input(action, dtype):
    prepared, x = prepared_of(action, 64, 16)
    y = torch_cpu.build(prepared)(x[:5].to(dtype))
    assert y.dtype == dtype
    exact = x[:5] @ torch.from_numpy(effective_weight(prepared)) + torch.from_numpy(prepared.tensors["bias"])
    assert float((y.float() - exact).norm() / exact.norm()) < 0.03
