"""Attention and Einsum nodes of ONNX in canonical form."""

import math

import numpy as np
import pytest

from szilard.cost_model.blocks_onnx import read_einsum
from szilard.cost_model.node_facts import NodeFacts

from .test_attributes_onnx import op_of

HEADS = "float[2,4,6,8] q, float[2,2,7,8] k, float[2,2,7,8] v, float[6,7] m"
GROUPED = "float[2,6,64] x, float[2,2,9,8] pk, float[2,2,9,8] pv, int32[2] n, int32[1] t"
PACKED = "float[2,6,32] q, float[2,7,32] k, float[2,7,32] v, float[2,4,6,7] m, float[96] b"


def test_attention_of_opset_23_by_heads():
    op = op_of("y = Attention<is_causal=1>(q, k, v, m)", HEADS, opset=23)
    assert op.kind == "attention"
    assert op.inputs == ("q", "k", "v", "m")
    assert op.attributes == {
        "scale": pytest.approx(1 / math.sqrt(8)), "is_causal": True, "softcap": 0.0, "gqa": True,
        "layout": "BHND", "heads": 4, "kv_heads": 2,
    }  # fmt: skip


def test_multi_head_attention_takes_its_mask_from_its_sixth_operand():
    op = op_of("y = com.microsoft.MultiHeadAttention<num_heads=4, scale=0.5>(q, k, v, , , m)", PACKED)
    assert op.inputs == ("q", "k", "v", "m")
    assert (op.attributes["layout"], op.attributes["heads"], op.attributes["kv_heads"]) == ("BNC", 4, 4)
    assert op.attributes["scale"] == 0.5


def test_multi_head_attention_keeps_a_bias_behind_the_mask():
    op = op_of("y = com.microsoft.MultiHeadAttention<num_heads=4>(q, k, v, b)", PACKED)
    assert op.inputs == ("q", "k", "v", "", "b")
    assert op.attributes["scale"] == pytest.approx(1 / math.sqrt(8))


def test_queries_keys_and_values_in_one_operand():
    op = op_of("y = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=2>(x, , , pk, pv, n, t)", GROUPED)
    assert (op.attributes["layout"], op.attributes["heads"], op.attributes["kv_heads"]) == ("BNC", 4, 2)
    assert op.attributes["scale"] == pytest.approx(1 / math.sqrt(8))
    op = op_of("y = com.microsoft.MultiHeadAttention<num_heads=4>(x)", "float[2,6,4,3,8] x")
    assert (op.attributes["layout"], op.attributes["heads"]) == ("BNC", 4)
    assert op.attributes["scale"] == pytest.approx(1 / math.sqrt(8))


@pytest.mark.parametrize(
    ("equation", "kind", "transposed"),
    [
        ("bij,bjk->bik", "matmul", False),
        ("bhqd, bhkd -> bhqk", "matmul", True),
        ("bqhd, bkhd -> bhqk", "einsum", None),
        ("ij,kj->ik", "matmul", True),
        ("bij,jk->bik", "matmul", False),
        ("bij,kj->bik", "matmul", True),
        ("ij,ij->ij", "einsum", None),
        ("...ij,...jk->...ik", "einsum", None),
        ("bij,bjk->bki", "einsum", None),
        ("ii,ij->ij", "einsum", None),
        ("ij->ji", "einsum", None),
        ("bij,bjk", "einsum", None),
    ],
)
def test_an_equation_is_a_matmul_only_if_it_is_one(equation, kind, transposed):
    facts = NodeFacts("Einsum", 18, {"equation": equation}, ("a", "b"), [None, None], [None], lambda index: None, 1)
    found, names, attributes = read_einsum(facts)
    assert (found, names) == (kind, ("a", "b"))
    assert attributes.get("transpose_b") is transposed
    terms = equation.replace(" ", "").split("->")[0].split(",")
    if kind == "matmul":
        sizes = dict(zip("bijkhqd", (2, 3, 4, 5, 2, 3, 4), strict=True))
        a, b = (np.random.default_rng(0).standard_normal([sizes[letter] for letter in term]) for term in terms)
        np.testing.assert_allclose(np.einsum(equation, a, b), a @ (b.swapaxes(-1, -2) if transposed else b))
