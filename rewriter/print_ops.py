"""How one ATen operator reads as plain PyTorch: the same kernel on the same numbers, under the name that people use."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..cost_model.errors import InputError

aten = torch.ops.aten
END = 2**63 - 1

Write = Callable[..., str | None]


def literal(value: Any) -> str:
    """A Python literal for a number, dtype, layout, string or None; floats to the last bit."""
    if isinstance(value, float) and not math.isfinite(value):
        return "math.nan" if math.isnan(value) else ("math.inf" if value > 0 else "-math.inf")
    if isinstance(value, torch.device):
        return f"torch.device({str(value)!r})"
    return repr(value)


def generic(name: str, arguments: Sequence[str], keywords: dict[str, str]) -> str:
    """`name(a, b, key=c)`."""
    return f"{name}({', '.join([*arguments, *(f'{key}={text}' for key, text in keywords.items())])})"


def written(target: Any, arguments: Sequence[str], keywords: dict[str, str], plain: bool = True) -> str:
    """The call of `target` on arguments that are already text, by its ATen name if not `plain`.

    Raises InputError for a target that Python cannot name.
    """
    writer = OPERATORS.get(target) if plain else None
    if writer is not None:
        try:
            inspect.signature(writer).bind(*arguments, **keywords)
        except TypeError:
            writer = None
    text = writer(*arguments, **keywords) if writer else None
    return text if text is not None else generic(_name(target), arguments, keywords)


def _name(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload):
        return f"torch.ops.{target}" if target.namespace != "aten" else str(target)
    module, name = getattr(target, "__module__", ""), getattr(target, "__name__", "")
    if module in ("math", "_operator"):
        return f"{module.strip('_')}.{name}"
    if module.startswith("torch") and getattr(torch, name, None) is target:
        return f"torch.{name}"
    raise InputError(
        f"The operator {target} has no name in plain PyTorch, so that the model cannot be printed; emit ONNX only."
    )


def _infix(sign: str) -> Write:
    return lambda a, b: f"{_atom(a)} {sign} {_atom(b)}"


def _prefix(sign: str) -> Write:
    return lambda a: f"{sign}{_atom(a)}"


def _atom(text: str) -> str:
    return f"({text})" if " " in text else text


def _call(name: str) -> Write:
    return lambda *a, **k: generic(name, a, k)


def _method(name: str) -> Write:
    return lambda x, *a, **k: generic(f"{x}.{name}", a, k)


def _shape_method(name: str) -> Write:
    """A method that takes its sizes one by one."""
    return lambda x, sizes: f"{x}.{name}({_bare(sizes)})"


def _bare(items: str) -> str:
    """A list or tuple without its brackets."""
    return items[1:-1]


def _slice(x: str, axis: str = "0", start: str = "None", end: str = "None", step: str = "1") -> str | None:
    first = "" if start in ("0", "None") else start
    last = "" if end in (str(END), "None") else end
    inside = f"{first}:{last}" + ("" if step == "1" else f":{step}")
    if int(axis) < 0:
        return f"{x}[..., {inside}]" if axis == "-1" else None
    return f"{x}[{':, ' * int(axis)}{inside}]"


def _index(x: str, indices: str) -> str:
    return f"{x}[{', '.join(':' if part == 'None' else part for part in _bare(indices).split(', '))}]"


def _layer_norm(x: str, shape: str, weight: str, bias: str, epsilon: str) -> str:
    return f"F.layer_norm({x}, {shape}, {weight}, {bias}, {epsilon})"


def _group_norm(x: str, weight: str, bias: str, batch: str, channels: str, size: str, groups: str, epsilon: str) -> str:
    return f"F.group_norm({x}, {groups}, {weight}, {bias}, {epsilon})"


def _batch_norm(x: str, weight: str, bias: str, mean: str, variance: str, momentum: str, epsilon: str) -> str:
    return f"F.batch_norm({x}, {mean}, {variance}, {weight}, {bias}, False, {momentum}, {epsilon})"


def _softmax(name: str) -> Write:
    return lambda x, axis, widen: f"{name}({x}, {axis})" if widen == "False" else None


def _convolution(
    x: str, w: str, b: str, stride: str, pad: str, dilation: str, transposed: str, extra: str, groups: str
) -> str | None:
    rank = stride.count(",") + 1
    if transposed == "True":
        return f"F.conv_transpose{rank}d({x}, {w}, {b}, {stride}, {pad}, {extra}, {groups}, {dilation})"
    return f"F.conv{rank}d({x}, {w}, {b}, {stride}, {pad}, {dilation}, {groups})"


def _pad(x: str, widths: str, value: str = "0") -> str:
    return f"F.pad({x}, {widths}, value={value})"


def _embedding(weight: str, indices: str, *rest: str) -> str | None:
    return f"F.embedding({indices}, {weight})"


def _to(x: str, **keywords: str) -> str | None:
    return f"{x}.to({keywords['dtype']})" if list(keywords) == ["dtype"] else None


def _getitem(x: str, index: str) -> str:
    return f"{x}[{index}]"


def _arange(start: str, end: str, step: str = "1", **keywords: str) -> str:
    numbers = [end] if start == "0" and step == "1" else [start, end] if step == "1" else [start, end, step]
    return generic("torch.arange", numbers, keywords)


def _mean(x: str, axes: str, keep: str = "False", **keywords: str) -> str:
    return generic(f"{x}.mean", [axes], ({"keepdim": keep} if keep == "True" else {}) | keywords)


def _attention(q: str, k: str, v: str, mask: str = "None", dropout: str = "0.0", causal: str = "False", **keywords: str) -> str:
    mask = keywords.pop("attn_mask", mask)
    causal = keywords.pop("is_causal", causal)
    shown = {"attn_mask": mask} if mask != "None" else {}
    shown |= {"dropout_p": dropout} if float(dropout) else {}
    shown |= {"is_causal": causal} if causal == "True" else {}
    return generic("F.scaled_dot_product_attention", [q, k, v], shown | keywords)


_SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_BITS = {"bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^"}
_TORCH = (
    "abs cos sin exp log sqrt rsqrt reciprocal sigmoid tanh erf floor ceil isnan isinf mm bmm matmul logical_and logical_or logical_not "
    "maximum minimum"
)
_FUNCTIONAL = "relu gelu silu leaky_relu hardswish hardsigmoid hardtanh"

OPERATORS: dict[Any, Write] = {
    **{getattr(aten, name).Tensor: _infix(sign) for name, sign in (_SIGNS | _BITS).items()},
    **{getattr(aten, name).Scalar: _infix(sign) for name, sign in _SIGNS.items()},
    **{getattr(aten, name).default: _call(f"torch.{name}") for name in _TORCH.split()},
    **{getattr(aten, name).default: _call(f"F.{name}") for name in _FUNCTIONAL.split()},
    aten.neg.default: _prefix("-"),
    aten.bitwise_not.default: _prefix("~"),
    aten.pow.Tensor_Scalar: _infix("**"),
    aten.where.self: _call("torch.where"),
    aten.addmm.default: _call("torch.addmm"),
    aten.linear.default: _call("F.linear"),
    aten.baddbmm.default: _call("torch.baddbmm"),
    aten.cat.default: _call("torch.cat"),
    aten.stack.default: _call("torch.stack"),
    aten.gather.default: _call("torch.gather"),
    aten.cumsum.default: _method("cumsum"),
    aten.clone.default: _method("clone"),
    aten.reshape.default: _shape_method("reshape"),
    aten.view.default: _shape_method("view"),
    aten.permute.default: _shape_method("permute"),
    aten.expand.default: _shape_method("expand"),
    aten.transpose.int: _method("transpose"),
    aten.unsqueeze.default: _method("unsqueeze"),
    aten.squeeze.dim: _method("squeeze"),
    aten.squeeze.dims: _method("squeeze"),
    aten.repeat.default: _shape_method("repeat"),
    aten.constant_pad_nd.default: _pad,
    aten.full_like.default: _call("torch.full_like"),
    aten.clamp.default: _method("clamp"),
    aten.topk.default: _call("torch.topk"),
    aten.select.int: _method("select"),
    aten.split_with_sizes.default: _method("split"),
    aten.split.Tensor: _method("split"),
    aten.slice.Tensor: _slice,
    aten.index.Tensor: _index,
    aten.mean.dim: _mean,
    aten._to_copy.default: _to,
    aten.embedding.default: _embedding,
    aten.convolution.default: _convolution,
    aten._softmax.default: _softmax("torch.softmax"),
    aten._log_softmax.default: _softmax("torch.log_softmax"),
    aten.native_layer_norm.default: _layer_norm,
    aten.native_group_norm.default: _group_norm,
    aten._native_batch_norm_legit_no_training.default: _batch_norm,
    aten.max_pool2d_with_indices.default: _call("F.max_pool2d"),
    aten.scaled_dot_product_attention.default: _attention,
    aten.arange.start_step: _arange,
    aten.full.default: _call("torch.full"),
    aten.scalar_tensor.default: lambda number, **k: generic("torch.full", ["()", number], k),
    aten.sym_size.int: lambda x, axis: f"{x}.shape[{axis}]",
    operator.getitem: _getitem,
    operator.add: _infix("+"),
    operator.sub: _infix("-"),
    operator.mul: _infix("*"),
    operator.floordiv: _infix("//"),
    operator.truediv: _infix("/"),
    operator.mod: _infix("%"),
    operator.neg: _prefix("-"),
}
"""Each operator and how it is written. Arguments that a writer does not take, or for which it gives None, have no plain form that is
the same; the operator is then called by its ATen name."""

FIRST_OF_SEVERAL = {
    aten.native_layer_norm.default,
    aten.native_group_norm.default,
    aten._native_batch_norm_legit_no_training.default,
    aten.max_pool2d_with_indices.default,
}
"""Operators with several outputs whose plain form gives the first one alone."""

WORDS = {
    "addmm": "linear",
    "mm": "linear",
    "scaled_dot_product_attention": "attention",
    "native_layer_norm": "layer_norm",
    "native_group_norm": "group_norm",
    "native_batch_norm_legit_no_training": "batch_norm",
    "max_pool2d_with_indices": "max_pool",
    "convolution": "conv",
    "constant_pad_nd": "padded",
    "to_copy": "cast",
    "slice": "part",
    "select": "part",
    "split_with_sizes": "pieces",
    "split": "pieces",
    "sum": "total",
    "view": "reshape",
}
"""The variable that an operator's result is kept in, where that is not the operator's own name."""
