"""Linears that read the same value, merged into one, give the same numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.cost_model.sites import LinearSite
from szilard.passes.onnx_merge_linear import MergeLinear

from .onnx_graphs import apply, assert_same, choose, graph, kinds

FORMS = ("matmul", "add", "add_left", "gemm", "gemm_transposed", "transposed")


def linears(forms, widths, random, *, features=7, rank=2, opset=18):
    """(model, sites, feeds): one linear of each form on the same x [.., features]."""
    body, weights, sites, outputs, count = [], {}, [], [], 0
    for index, (form, width) in enumerate(zip(forms, widths, strict=True)):
        weight, bias, out = f"w{index}", f"b{index}", f"y{index}"
        turned = "transposed" in form
        weights[weight] = random.standard_normal((width, features) if turned else (features, width)).astype(np.float32)
        if form != "matmul":
            weights[bias] = random.standard_normal(width).astype(np.float32)
        if form.startswith("gemm"):
            lines = [f"{out} = Gemm<alpha = 0.5, beta = 1.5, transB = {int(turned)}>(x, {weight}, {bias})"]
        elif form == "matmul":
            lines = [f"{out} = MatMul(x, {weight})"]
        else:
            turn = [f"t{index} = Transpose<perm = [1, 0]>({weight})"] if turned else []
            lines = [*turn, f"m{index} = MatMul(x, {f't{index}' if turned else weight})"]
            lines.append(f"{out} = Add({bias}, m{index})" if form == "add_left" else f"{out} = Add(m{index}, {bias})")
        ops = tuple(f"n{count + i}" for i in range(len(lines)))
        count += len(lines)
        body += lines
        named = "" if form == "matmul" else bias
        sites.append(LinearSite(ops[-1], ops, "x", weight, named, out, features, width, turned, 15, "float32", "x"))
        outputs.append(f"float{['[M,' + str(width) + ']', '[B,M,' + str(width) + ']'][rank - 2]} {out}")
    dims = ["[M,", "[B,M,"][rank - 2]
    text = f"(float{dims}{features}] x) => ({', '.join(outputs)}) {{ {chr(10).join(body)} }}"
    shape = (5, features) if rank == 2 else (3, 5, features)
    feeds = {"x": random.standard_normal(shape).astype(np.float32)}
    return graph(text, weights, opset=opset), sites, feeds


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31), forms=st.lists(st.sampled_from(FORMS), min_size=2, max_size=4),
    opset=st.sampled_from([11, 13, 18]), data=st.data(),
)  # fmt: skip
def test_merged_equals_apart(seed, forms, opset, data):
    rank = 2 if any(form.startswith("gemm") for form in forms) else data.draw(st.sampled_from([2, 3]))
    widths = data.draw(st.lists(st.integers(1, 9), min_size=len(forms), max_size=len(forms)))
    model, sites, feeds = linears(forms, widths, np.random.default_rng(seed), rank=rank, opset=opset)
    after, changed = apply(MergeLinear(), model, [choose("merged", *sites)], sites)
    assert changed == len(forms)
    biased = any(form != "matmul" for form in forms)
    assert kinds(after) == (["Add", "MatMul", "Split"] if biased else ["MatMul", "Split"])
    assert len(after.graph.initializers) == 1 + biased + (opset >= 13)
    assert_same(model, after, feeds)


@pytest.mark.parametrize("action", ["merged", "leave"])
def test_a_lone_site_stays(action):
    model, sites, _ = linears(["add"], [4], np.random.default_rng(0))
    after, changed = apply(MergeLinear(), model, [choose(action, *sites)], sites)
    assert changed == 0
    assert kinds(after) == kinds(model)
