"""How scaled_dot_product_attention is written in plain ONNX operators when a PyTorch program is exported."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
from onnxscript import opset20

# Its functions are typed for use inside @script functions alone; here they are called as plain ones.
op: Any = opset20


def attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """query [B, H, N, D], key and value [B, H_kv, S, D] -> [B, H, N, D], as torch computes it; the head sizes must be static.

    A row that a boolean mask hides from every key is 0, as in torch, through a guard on the output, which is smaller than the weights.
    torch's own translation guards the weights, reshapes the keys twice to transpose them, and scales keys and queries one by one.
    """
    if enable_gqa:
        key, value = _repeat(key, query), _repeat(value, query)
    scores = op.MatMul(query, op.Transpose(key, perm=[0, 1, 3, 2]))
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    if scale != 1.0:
        scores = op.Mul(scores, op.CastLike(op.Constant(value_float=float(scale)), query))
    zero = op.CastLike(op.Constant(value_float=0.0), query)
    hidden = op.CastLike(op.Constant(value_float=-math.inf), query)
    boolean = attn_mask is not None and attn_mask.dtype == ir.DataType.BOOL
    if is_causal:
        sizes = op.Concat(op.Shape(query, start=-2, end=-1), op.Shape(key, start=-2, end=-1), axis=0)
        scores = op.Add(scores, op.Trilu(op.Expand(hidden, sizes), op.Constant(value_int=1), upper=1))
    elif attn_mask is not None:
        scores = op.Add(scores, op.Where(attn_mask, zero, hidden) if boolean else attn_mask)
    result = op.MatMul(op.Softmax(scores, axis=-1), value)
    return op.Where(op.IsNaN(result), zero, result) if boolean else result


def _repeat(heads: Any, query: Any) -> Any:
    """[B, H_kv, S, D] -> [B, H, S, D], each head H / H_kv times in a row."""
    count = query.shape[1] // heads.shape[1]
    if count == 1:
        return heads
    batch, rest = op.Shape(heads, start=0, end=1), op.Shape(heads, start=2, end=4)
    spread = op.Concat(batch, op.Constant(value_ints=[heads.shape[1], count]), rest, axis=0)
    merged = op.Concat(batch, op.Constant(value_ints=[heads.shape[1] * count]), rest, axis=0)
    return op.Reshape(op.Expand(op.Unsqueeze(heads, op.Constant(value_ints=[2])), spread), merged)
