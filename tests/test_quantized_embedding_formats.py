"""Tables in integer codes: errors within half a step, the same rows from numpy, torch and onnxruntime. Covers torch_module.py too."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.cost_model.errors import InputError
from szilard.cost_model.sites import EmbeddingSite
from szilard.kernels.quantized_embedding.formats import BITS, group_of, looked_up, prepare_table, refusal, stand_in
from szilard.kernels.quantized_embedding.torch_module import build
from szilard.passes.onnx_quantize_embedding import QuantizeEmbeddings

from .onnx_graphs import apply, choose, graph, kinds, run


def table(seed: int, rows: int, width: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return (draw.standard_normal((rows, width)) * np.exp(draw.standard_normal((rows, 1)))).astype(np.float32)


def lookup(weights: np.ndarray, indices: str = "int64") -> tuple[ir.Model, EmbeddingSite]:
    rows, width = weights.shape
    text = f"({indices}[B,L] i) => (float[B,L,{width}] y) {{ y = Gather(w, i) }}"
    model = graph(text.replace(f"{indices}[", f"{indices} ["), {"w": weights})
    return model, EmbeddingSite("words", ("n0",), "i", "w", "y", rows, width, 6, "float32")


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**31), st.sampled_from(list(BITS)), st.integers(1, 30), st.integers(1, 90), st.sampled_from(["int32", "int64"])
)  # fmt: skip
def test_all_forms_look_up_the_same_rows(seed, action, rows, width, dtype):
    width += width % 2 if BITS[action] == 4 else 0
    weights = table(seed, rows, width)
    prepared = prepare_table(action, weights)
    indices = np.random.default_rng(seed).integers(-rows, rows, (2, 3)).astype(dtype)
    wanted = looked_up(prepared, indices)
    model, site = lookup(weights, dtype)
    after, changed = apply(QuantizeEmbeddings({"words": prepared}), model, [choose(action, site)], [site])
    assert (changed, kinds(after)) == (1, ["GatherBlockQuantized"])
    assert set(after.graph.initializers) == {f"words.{action}_codes", f"words.{action}_scale"}
    np.testing.assert_array_equal(run(after, {"i": indices})[0], wanted)
    module = build(prepared, torch.float32)
    np.testing.assert_array_equal(module(torch.from_numpy(indices).long()).numpy(), wanted)
    # Half a step; a whole one where 4-bit codes of the other sign end one short.
    spread = np.repeat(np.abs(prepared.scale), prepared.group, axis=1)[:, :width][indices]
    assert np.all(np.abs(wanted - weights[indices]) <= spread * (0.5 if BITS[action] == 8 else 1.0) * (1 + 1e-5) + 1e-30)
    step = np.abs(weights).max(axis=1, keepdims=True) / 127
    if BITS[action] == 8:
        assert np.all(np.abs(wanted - weights[indices]) <= (step / 2 * (1 + 1e-5) + 1e-30)[indices[..., None] % rows, 0])


def test_a_table_takes_its_bits_and_a_scale_for_each_group():
    weights = table(0, 1000, 384)
    bytes_of = {action: (p := prepare_table(action, weights)).codes.nbytes + p.scale.nbytes for action in BITS}
    assert bytes_of == {"int8_rows": 1000 * (384 + 4), "int4_rows": 1000 * (192 + 12 * 4)}
    assert [group_of("int8_rows", width) for width in (3, 16, 17, 384, 512)] == [16, 16, 32, 512, 512]
    for action in BITS:
        real, made = prepare_table(action, weights), stand_in(action, 1000, 384)
        assert (made.codes.shape, made.scale.shape, made.group) == (real.codes.shape, real.scale.shape, real.group)
        assert not looked_up(made, np.arange(5)).any()


def test_zeros_stay_zeros_and_odd_rows_have_no_four_bits():
    for action in BITS:
        assert not looked_up(prepare_table(action, np.zeros((3, 8), np.float32)), np.arange(3)).any()
    assert refusal("int8_rows", 7) == ""
    with pytest.raises(InputError, match="odd number of columns"):
        prepare_table("int4_rows", np.ones((3, 7), np.float32))
    with pytest.raises(InputError, match="no number format 'int2_rows'"):
        prepare_table("int2_rows", np.ones((3, 8), np.float32))
    with pytest.raises(InputError, match="not finite"):
        prepare_table("int8_rows", np.full((3, 8), np.inf, np.float32))


def test_a_table_of_another_format_is_refused():
    weights = table(0, 5, 8)
    model, site = lookup(weights)
    with pytest.raises(InputError, match="site words is nothing"):
        QuantizeEmbeddings().apply(model.clone(), [choose("int8_rows", site)], {"words": site})
    made = {"words": prepare_table("int4_rows", weights)}
    with pytest.raises(InputError, match="site words is int4_rows"):
        QuantizeEmbeddings(made).apply(model.clone(), [choose("int8_rows", site)], {"words": site})


@pytest.mark.parametrize("action", BITS)
def test_a_table_in_float16_is_rounded_for_scales_in_float16(action):
    weights = table(0, 6, 64)
    weights *= np.array([[1.0], [1e-2], [1e-3], [1e-4], [1e-5], [3e-6]]) / np.abs(weights).max(axis=1, keepdims=True)
    weights = weights.astype(np.float16)
    prepared = prepare_table(action, weights)
    assert np.array_equal(prepared.scale, prepared.scale.astype(np.float16))
    steps = np.repeat(np.abs(prepared.scale), prepared.group, axis=1)[:, :64]
    beyond = np.maximum(np.abs(weights) - (7.5 if action == "int4_rows" else 127.5) * steps, 0)
    assert np.all(np.abs(looked_up(prepared, np.arange(6)) - weights) <= 0.501 * steps + beyond)
    assert np.all(
        np.abs(prepared.scale).max(axis=1) <= np.abs(weights).max(axis=1) / (7 if action == "int4_rows" else 126) + 6e-8
    )
