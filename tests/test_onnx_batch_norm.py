"""Batch normalisation folded into convolutions of every layout gives the same numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.cost_model.errors import InputError
from szilard.cost_model.sites import ConvSite
from szilard.passes.onnx_batch_norm import FoldBatchNorm

from .onnx_graphs import apply, assert_same, choose, graph, kinds

TEXT = """(float[N,{cin},{size}] x) => (float[N,{cout},{out}] y) {{
    c = {op}<group = {groups}, strides = {strides}>(x, w{bias})
    b = BatchNormalization<epsilon = 0.01>(c, g, beta, mean, var)
    y = Relu(b)
}}"""


def site(groups: int, bias: bool) -> ConvSite:
    return ConvSite("n0", ("n0", "n1"), "x", "w", "bias" if bias else "", "b", "n1", groups, "float32")


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31), rank=st.integers(1, 2), groups=st.sampled_from([1, 3]), transposed=st.booleans(), bias=st.booleans(),
    stride=st.integers(1, 2), opset=st.sampled_from([11, 13, 18]),
)  # fmt: skip
def test_folded_equals_unfolded(seed, rank, groups, transposed, bias, stride, opset):
    random = np.random.default_rng(seed)
    cin, cout = 2 * groups, 5 * groups
    first, second = (cin, cout) if transposed else (cout, cin)
    weights = {"w": random.standard_normal((first, second // groups, *(3,) * rank)).astype(np.float32)}
    for name in ("g", "beta", "mean"):
        weights[name] = random.standard_normal(cout).astype(np.float32)
    weights["var"] = random.uniform(0.1, 2, cout).astype(np.float32)
    if bias:
        weights["bias"] = random.standard_normal(cout).astype(np.float32)
    text = TEXT.format(
        cin=cin, cout=cout, groups=groups, op="ConvTranspose" if transposed else "Conv", strides=[stride] * rank,
        bias=", bias" if bias else "", size=",".join(["7", "9"][:rank]), out=",".join("PQ"[:rank]),
    )  # fmt: skip
    model = graph(text, weights, opset=opset)
    folded, changed = apply(FoldBatchNorm(), model, [choose("fold_batch_norm", site(groups, bias))], [site(groups, bias)])
    assert changed == 1
    assert "BatchNormalization" not in kinds(folded)
    assert len(folded.graph.initializers) == 2
    assert_same(model, folded, {"x": random.standard_normal((2, cin, *(7, 9)[:rank])).astype(np.float32)})


def small():
    random = np.random.default_rng(0)
    weights = {name: random.uniform(0.5, 1, 4).astype(np.float32) for name in ("g", "beta", "mean", "var")}
    weights["w"] = random.standard_normal((4, 3, 1)).astype(np.float32)
    return graph(TEXT.format(cin=3, cout=4, groups=1, op="Conv", strides=[1], bias="", size=5, out=5), weights)


def test_another_action_is_left_alone():
    model = small()
    after, changed = apply(FoldBatchNorm(), model, [choose("leave", site(1, False))], [site(1, False)])
    assert changed == 0
    assert kinds(after) == kinds(model)


def test_a_plan_of_another_model_is_refused():
    stranger = ConvSite("m0", ("m0", "m1"), "x", "w", "", "b", "m1", 1, "float32")
    with pytest.raises(InputError, match="'m0', which the model does not have"):
        FoldBatchNorm().apply(small(), [choose("fold_batch_norm", stranger)], {"m0": stranger})
    with pytest.raises(InputError, match="was not found in this model"):
        FoldBatchNorm().apply(small(), [choose("fold_batch_norm", stranger)], {})
