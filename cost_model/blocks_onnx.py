"""Attention and Einsum nodes of ONNX in canonical form: operand order and attributes."""

from __future__ import annotations

import math
from typing import Any

from .node_facts import NodeFacts


def read_attention(facts: NodeFacts) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Attention (opset 23) and com.microsoft's MultiHeadAttention and GroupQueryAttention as q, k, v, mask, then what is left over."""
    native, query = facts.native, facts.shape(0)
    names = (*facts.inputs, *[""] * (6 - len(facts.inputs)))
    heads = native.get("q_num_heads") or native.get("num_heads")
    packed = query is not None and len(query) in (3, 5)  # five: q, k and v of each head side by side
    if query is not None and len(query) == 4:
        heads = query[1]
    kv_heads = native.get("kv_num_heads") or (heads if packed else (facts.shape(1) or (0, heads))[1])
    if facts.op_type == "MultiHeadAttention":
        order, causal = (*names[:3], names[5], names[3], names[4], *names[6:]), native.get("unidirectional", 0)
    elif facts.op_type == "GroupQueryAttention":
        order, causal = (*names[:3], "", *names[3:]), 1
    else:
        order, causal = names, native.get("is_causal", 0)
    stored = (heads or 0) + (0 if names[1] else 2 * (kv_heads or 0))  # without keys, they and the values lie behind the queries
    dim = None if query is None else query[-1] // (stored if len(query) == 3 and stored else 1)
    scale = native.get("scale") or (1.0 / math.sqrt(dim) if dim else None)
    attributes = {
        "scale": None if scale is None else float(scale),
        "is_causal": bool(causal),
        "softcap": float(native.get("softcap", 0.0)),
        "gqa": heads != kv_heads,
        "layout": "BNC" if packed else "BHND",
        "heads": heads,
        "kv_heads": kv_heads,
    }
    while len(order) > 3 and not order[-1]:
        order = order[:-1]
    return order, attributes


def read_einsum(facts: NodeFacts) -> tuple[str, tuple[str, ...], dict[str, Any]]:
    """An equation such as "bij,bjk->bik" is a plain matmul; anything else keeps its equation."""
    equation = facts.native.get("equation", "").replace(" ", "")
    left, arrow, out = equation.partition("->")
    terms = left.split(",")
    if arrow and len(terms) == 2 and "." not in equation and all(len(set(t)) == len(t) >= 2 for t in (*terms, out)):
        a, b = terms
        batch, rows, inner = a[:-2], a[-2], a[-1]
        if b[:-2] in (batch, "") and out[:-1] == batch + rows and out[-1] not in a:
            matmul = {"transpose_a": False, "alpha": 1.0, "beta": 1.0}
            if b[-2:] == inner + out[-1] and inner not in batch:
                return "matmul", facts.inputs, {**matmul, "transpose_b": False}
            if b[-2:] == out[-1] + inner and inner not in batch:
                return "matmul", facts.inputs, {**matmul, "transpose_b": True}
    return "einsum", facts.inputs, {"equation": equation}
