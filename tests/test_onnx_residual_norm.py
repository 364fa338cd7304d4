"""Residual add and layer norm as SkipLayerNormalization and as Sum + LayerNormalization."""

import numpy as np
import pytest

from szilard.cost_model.sites import Region
from szilard.passes.onnx_residual_norm import RewriteResidualNorm

from .onnx_graphs import apply, assert_same, choose, graph, kinds

TEXT = """(float[B,N,7] x, float[B,N,7] r) => (float[B,N,7] y{more}) {{
    s = Add(x, r)
    n = LayerNormalization<axis = -1, epsilon = 0.0003>(s, w{bias})
    y = {last}
}}"""


def case(second_use: str, bias: bool):
    random = np.random.default_rng(1)
    weights = {"w": random.standard_normal(7).astype(np.float32)}
    if bias:
        weights["b"] = random.standard_normal(7).astype(np.float32)
    text = TEXT.format(
        more=", float[B,N,7] s" if second_use == "output" else "", bias=", b" if bias else "",
        last="Mul(n, s)" if second_use == "node" else "Tanh(n)",
    )  # fmt: skip
    writes = ("n", "s") if second_use else ("n",)
    feeds = {name: random.standard_normal((3, 5, 7)).astype(np.float32) for name in "xr"}
    reads = ("x", "r", "w", "b") if bias else ("x", "r", "w")
    return graph(text, weights), Region("n1", "residual_norm", ("n0", "n1"), reads, writes, "float32"), feeds


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("second_use", ["", "node", "output"])
@pytest.mark.parametrize("action", ["skip_layer_norm", "sum_layer_norm"])
def test_equals_the_pair(action, second_use, bias):
    model, site, feeds = case(second_use, bias)
    after, changed = apply(RewriteResidualNorm(), model, [choose(action, site)], [site])
    assert changed == 1
    assert "Add" not in kinds(after)
    assert ("SkipLayerNormalization" in kinds(after)) == (action == "skip_layer_norm")
    assert ("Sum" in kinds(after)) == (action == "sum_layer_norm")
    assert_same(model, after, feeds)
