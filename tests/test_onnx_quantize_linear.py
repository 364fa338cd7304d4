"""Linears in integer formats: the ONNX nodes compute what the reference of the format computes."""

import numpy as np
import onnx_ir as ir
import pytest
import torch

from szilard.cost_model.errors import InputError
from szilard.kernels.quantized_linear.formats import FORMATS, prepare_group
from szilard.kernels.quantized_linear.reference import simulate
from szilard.passes.onnx_merge_linear import linear_arrays
from szilard.passes.onnx_pass import Surgeon
from szilard.passes.onnx_quantize_linear import QuantizeLinears

from .onnx_graphs import apply, choose, kinds, run
from .test_onnx_merge_linear import linears

FEATURES = 64
WIDTHS = (9, 17, 33)


def prepared(model: ir.Model, sites, action: str, random):
    """The weights of each site, calibrated on one set of inputs, as the planner hands them over."""
    arrays = [linear_arrays(Surgeon(model), site) for site in sites]
    seen = random.standard_normal((40, FEATURES)).astype(np.float32)
    parts = prepare_group(action, [w for w, _ in arrays], [b for _, b in arrays], seen)
    return {site.id: part for site, part in zip(sites, parts, strict=True)}


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("opset", [11, 18])
@pytest.mark.parametrize("action", FORMATS)
def test_nodes_compute_what_the_reference_does(action, opset, merged):
    random = np.random.default_rng(3)
    model, sites, feeds = linears(["add", "matmul", "transposed"], WIDTHS, random, features=FEATURES, rank=3, opset=opset)
    weights = prepared(model, sites, action, random)
    name = f"{action}_merged" if merged else action
    after, changed = apply(QuantizeLinears(weights), model, [choose(name, *sites)], sites)
    assert changed == 3
    assert "MatMul" not in kinds(after)
    assert after.opset_imports["com.microsoft"] == 1
    read = {value.name for node in after.graph for value in node.inputs if value is not None}
    assert set(after.graph.initializers) <= read
    quantisations = sum(kind in ("QuantizeLinear", "DynamicQuantizeLinear") for kind in kinds(after))
    assert quantisations == {"int8_static": 1, "int8_dynamic": 1, "int8_token": 1, "int8_hilo": 2}.get(action, 0)
    x = torch.from_numpy(feeds["x"].reshape(-1, FEATURES))
    for site, plain, result in zip(sites, run(model, feeds), run(after, feeds), strict=True):
        expected = simulate(weights[site.id], x).numpy().reshape(result.shape)
        np.testing.assert_allclose(result, expected, atol=2e-2 if action.endswith("weight") else 1e-4)
        error = np.sum((result - plain) ** 2) / np.sum(plain**2)
        assert error < (0.02 if action == "int4_weight" else 0.001)


def test_gemm_factors_go_into_the_weights():
    random = np.random.default_rng(4)
    model, sites, feeds = linears(["gemm", "gemm_transposed"], (9, 5), random, features=FEATURES)
    weights = prepared(model, sites, "int8_dynamic", random)
    after, _ = apply(QuantizeLinears(weights), model, [choose("int8_dynamic", *sites)], sites)
    for plain, result in zip(run(model, feeds), run(after, feeds), strict=True):
        assert np.sum((result - plain) ** 2) / np.sum(plain**2) < 1e-3


def test_weights_in_another_format_are_refused():
    random = np.random.default_rng(5)
    model, sites, _ = linears(["add", "add"], (4, 4), random, features=FEATURES)
    known = {site.id: site for site in sites}
    choice = choose("int8_static", *sites)
    with pytest.raises(InputError, match="is nothing"):
        QuantizeLinears().apply(model.clone(), [choice], known)
    other = prepared(model, sites, "int8_dynamic", random)
    with pytest.raises(InputError, match="is int8_dynamic"):
        QuantizeLinears(other).apply(model.clone(), [choice], known)
