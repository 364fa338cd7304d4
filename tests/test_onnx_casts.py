"""Linears in formats with float16 inputs in a model: Casts between neighbours, sites of float16. Covers onnx_casts.py."""

import numpy as np
import pytest
import torch

from szilard.cost_model.sites import LinearSite
from szilard.kernels.quantized_linear.formats import prepare
from szilard.kernels.quantized_linear.half_formats import HALF_FORMATS
from szilard.kernels.quantized_linear.reference import simulate
from szilard.passes.onnx_quantize_linear import QuantizeLinears

from .onnx_graphs import apply, choose, graph, kinds, run
from .test_onnx_merge_linear import linears
from .test_onnx_quantize_linear import prepared

FEATURES = 64


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("opset", [11, 18])
@pytest.mark.parametrize("action", HALF_FORMATS)
def test_sites_that_read_the_same_value_cast_it_once(action, opset, merged):
    random = np.random.default_rng(3)
    model, sites, feeds = linears(["add", "matmul", "transposed"], (9, 17, 33), random, features=FEATURES, rank=3, opset=opset)
    weights = prepared(model, sites, action, random)
    after, changed = apply(QuantizeLinears(weights), model, [choose(f"{action}_merged" if merged else action, *sites)], sites)
    assert changed == 3
    assert kinds(after).count("Cast") == (2 if merged else 4)
    assert kinds(after).count("MatMul") == (0 if action != "float16" else 1 if merged else 3)
    read = {value.name for node in after.graph for value in node.inputs if value is not None}
    assert set(after.graph.initializers) <= read
    x = torch.from_numpy(feeds["x"].reshape(-1, FEATURES))
    for site, plain, result in zip(sites, run(model, feeds), run(after, feeds), strict=True):
        assert result.dtype == np.float32
        expected = simulate(weights[site.id], x).numpy().reshape(result.shape)
        np.testing.assert_allclose(result, expected, rtol=2e-3, atol=2e-2)
        error = np.sum((result - plain) ** 2) / np.sum(plain**2)
        assert error < {"float16": 1e-6, "int8_weight_float16": 1e-3, "int4_weight_float16": 0.03}[action]


def chain(more="", results="float[N,3] y", dtype="float32"):
    """x [N, 64] -> 64 -> 64 -> 3, one linear directly behind the other."""
    text = f"(float[N,64] x) => ({results}) {{ a = MatMul(x, u) b = MatMul(a, v) y = MatMul(b, w) {more} }}"
    draw = np.random.default_rng(0)
    weights = {name: (draw.standard_normal((64, 3 if name == "w" else 64)) / 8).astype(dtype) for name in "uvw"}
    model = graph(text if dtype == "float32" else text.replace("float[", "float16["), weights)
    sites = [
        LinearSite(f"n{number}", (f"n{number}",), x, name, "", y, 64, len(weights[name][0]), False, 5, dtype, x)
        for number, (x, name, y) in enumerate((("x", "u", "a"), ("a", "v", "b"), ("b", "w", "y")))
    ]
    feeds = {"x": draw.standard_normal((5, 64)).astype(dtype)}
    return model, sites, feeds, {site.id: prepare("float16", weights[site.weight].astype(np.float32)) for site in sites}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_a_cast_behind_its_opposite_goes(order):
    model, sites, feeds, weights = chain()
    choices = [choose("float16", sites[number]) for number in order]
    after, changed = apply(QuantizeLinears(weights), model, choices, sites)
    assert changed == 3
    assert kinds(after) == ["Cast", "Cast", "MatMul", "MatMul", "MatMul"]
    x = torch.from_numpy(feeds["x"])
    for site in sites:
        x = simulate(weights[site.id], x)
    np.testing.assert_allclose(run(after, feeds)[0], x.numpy(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("more", "results", "left"),
    [("z = Relu(b)", "float[N,3] y, float[N,64] z", 3), ("", "float[N,3] y, float[N,64] b, float[N,64] a", 4)],
)
def test_a_value_that_others_read_keeps_its_cast(more, results, left):
    model, sites, feeds, weights = chain(more, results)
    after, _ = apply(QuantizeLinears(weights), model, [choose("float16", site) for site in sites], sites)
    assert kinds(after).count("Cast") == left
    for plain, found in zip(run(model, feeds), run(after, feeds), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, plain, rtol=5e-3, atol=5e-3)


def test_a_neighbour_that_stays_in_float32_keeps_the_casts():
    model, sites, _, weights = chain()
    after, _ = apply(QuantizeLinears(weights), model, [choose("float16", sites[0]), choose("float16", sites[2])], sites)
    assert kinds(after).count("Cast") == 4


def test_a_float16_model_gets_no_casts():
    model, sites, feeds, _ = chain(dtype="float16")
    weights = {
        site.id: prepare("int4_weight_float16", model.graph.initializers[site.weight].const_value.numpy().astype(np.float32))
        for site in sites
    }
    after, changed = apply(QuantizeLinears(weights), model, [choose("int4_weight_float16", site) for site in sites], sites)
    assert changed == 3
    assert kinds(after) == ["MatMulNBits", "MatMulNBits", "MatMulNBits", "Slice"]
    x = torch.from_numpy(feeds["x"].astype(np.float32))
    for site in sites:
        x = simulate(weights[site.id], x)
    (found,) = run(after, feeds)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, x.numpy(), rtol=4e-3, atol=4e-3)
