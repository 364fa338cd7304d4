"""Floating-point and integer operations of one op, by the dtype that computes them.

A multiply-add is two flops. Keys are "float32", "int8", ..., with ".tensor" behind those of matrix products, which a
device may price by its matrix units. Functions such as exp count the multiply-adds of a vectorised polynomial.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, log2, prod

from . import kinds
from .collectives import passed_on
from .net import Net, Op
from .operand_sizes import Unknown, attention_sizes, einsum_sizes, operand, shape_of

Flops = dict[str, float]

WEIGHT = {
    **dict.fromkeys(("div", "sqrt", "rsqrt", "reciprocal", "mod"), 4.0),
    **dict.fromkeys(("exp", "log", "log1p", "sigmoid", "silu", "elu"), 12.0),
    **dict.fromkeys(("tanh", "sin", "cos", "erf"), 16.0),
    **dict.fromkeys(("gelu", "softplus", "pow"), 20.0),
    **dict.fromkeys(("hard_sigmoid", "hard_swish", "clip", "leaky_relu", "prelu"), 2.0),
    **dict.fromkeys(("softmax", "log_softmax"), 16.0),
    **dict.fromkeys(("layer_norm", "group_norm", "instance_norm"), 8.0),
    "rms_norm": 5.0,
    "batch_norm": 2.0,
    "skip_layer_norm": 10.0,
    "quantize_linear": 3.0,
    "dequantize_linear": 2.0,
    "dynamic_quantize_linear": 5.0,
}
"""Operations for each element; 1 for what is not listed."""

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
VARIADIC = frozenset(["add", "min", "max"])
"""Kinds that may take more than two operands."""

CLASS = {
    **dict.fromkeys(("float64", "complex128"), "float64"),
    "float32": "float32",
    "complex64": "float32",
    "float16": "float16",
    "bfloat16": "bfloat16",
    **dict.fromkeys(("int64", "uint64", "int32", "uint32", "int16", "uint16", "bool"), "int32"),
    **dict.fromkeys(("int8", "uint8", "int4", "uint4", "int2", "uint2"), "int8"),
}


def arithmetic(dtype: str | None) -> str:
    """The name under which arithmetic on `dtype` is priced. Raises Unknown for a dtype that has none."""
    if dtype is not None and dtype.startswith("float8"):
        return "float8"
    if dtype not in CLASS:
        raise Unknown(f"no arithmetic on {dtype}")
    return CLASS[dtype]


def flops(op: Op, net: Net) -> Flops:
    """Operations by dtype of one op with kind in `kinds.KINDS`, control flow excepted. Raises Unknown."""
    if op.kind in COUNTERS:
        return COUNTERS[op.kind](op, net)
    if op.kind in kinds.MOVEMENT or op.kind in kinds.FREE or op.kind == "dropout":
        return {}
    if op.kind in kinds.ELEMENTWISE:
        return _elementwise(op, net)
    return _per_element(op, net)


def _class(net: Net, name: str) -> str:
    value = net.values.get(name)
    return arithmetic(value.dtype if value else None)


def _plain(net: Net, name: str) -> str:
    """As `_class`, but small integers are computed in 32-bit lanes outside matrix products."""
    found = _class(net, name)
    return "int32" if found == "int8" else found


def _elementwise(op: Op, net: Net) -> Flops:
    of = op.inputs[0] if op.kind in kinds.COMPARISON else op.output
    times = max(1, len(op.inputs) - 1) if op.kind in VARIADIC else 1
    return {_plain(net, of): times * WEIGHT.get(op.kind, 1.0) * prod(shape_of(net, op.output))}


def _per_element(op: Op, net: Net) -> Flops:
    """Reductions, scans, norms, softmax, pools without overlap: one weight for each element that goes in."""
    x = operand(op, 0)
    return {_plain(net, x): WEIGHT.get(op.kind, 1.0) * prod(shape_of(net, x))}


def _quantize(op: Op, net: Net) -> Flops:
    return {"float32": WEIGHT[op.kind] * prod(shape_of(net, operand(op, 0)))}


def _matmul(op: Op, net: Net) -> Flops:
    a = shape_of(net, operand(op, 0))
    if not a:
        raise Unknown("a matmul of a scalar")
    inner = a[-2] if op.attributes.get("transpose_a") and len(a) > 1 else a[-1]
    out = prod(shape_of(net, op.output))
    # An integer product may quantise its activations on the way: the weights say what is multiplied.
    kind = _class(net, op.inputs[0] if op.kind == "matmul" else operand(op, 1))
    found = {f"{kind}.tensor": 2.0 * out * inner}
    if op.kind == "matmul" and len(op.inputs) > 2 and op.inputs[2]:
        found[_plain(net, op.output)] = 1.0 * out
    if op.kind == "matmul_integer_to_float":
        found["float32"] = 3.0 * out
    return found


def _matmul_nbits(op: Op, net: Net) -> Flops:
    """Weights of few bits: computed in int8 when `accuracy_level` is 4, or in the dtype `computed_in` (the activations are quantised on
    the way), else in the activations' dtype after each weight was expanded, once or, with `row_tile`, once for every so many rows; then
    the column's scale and bias come last, and the ops of an `epilogue` (their kinds) behind them. Two operations a weight: NVIDIA GPUs of
    compute capability 9.0 convert at half the rate of an add (CUDA C++ Programming Guide, table of arithmetic throughput)."""
    a = shape_of(net, operand(op, 0))
    out = shape_of(net, op.output)
    products = 2.0 * prod(out) * a[-1]
    behind = prod(out) * sum(WEIGHT.get(kind, 1.0) for kind in op.attributes.get("epilogue", ()))
    if narrow := "int8" if op.attributes.get("accuracy_level") == 4 else op.attributes.get("computed_in"):
        return {f"{narrow}.tensor": products, "float32": 3.0 * prod(a) + 2.0 * prod(out) + behind}
    kind = _class(net, op.inputs[0])
    expanded = 2.0 * a[-1] * out[-1]
    if row_tile := op.attributes.get("row_tile"):
        expanded = expanded * ceil(prod(a[:-1]) / row_tile) + 2.0 * prod(out)
    return {f"{kind}.tensor": products, kind: expanded + behind}


def _conv(op: Op, net: Net) -> Flops:
    weight = shape_of(net, operand(op, 1))
    out = prod(shape_of(net, op.output))
    sites = prod(shape_of(net, op.inputs[0])) if op.attributes.get("transposed") else out
    kind = _class(net, op.inputs[0])
    found = {f"{kind}.tensor": 2.0 * sites * prod(weight[1:])}
    if op.kind == "conv" and len(op.inputs) > 2 and op.inputs[2]:
        found[_plain(net, op.output)] = 1.0 * out
    return found


def _attention(op: Op, net: Net) -> Flops:
    """2 B H N S (D + D_v) for the two products and the softmax of B H N S scores; half of both when causal."""
    q, k = (shape_of(net, operand(op, position)) for position in range(2))
    if op.kind == "fused_attention" and len(k) == 2:
        return _projected_attention(op, net, q, k)
    found = attention_sizes(op, net)
    scores = found.scores * (0.5 if op.attributes.get("is_causal") else 1.0)
    kind = _class(net, op.inputs[0])
    products = 2.0 * scores * (found.depth + found.value_depth)
    return {f"{kind}.tensor": products, _plain(net, op.inputs[0]): WEIGHT["softmax"] * scores}


def _projected_attention(op: Op, net: Net, x: tuple[int, ...], weight: tuple[int, ...]) -> Flops:
    """x [B, N, C] times a packed weight [C, 3 C'], then attention of N tokens to each other (com.microsoft Attention)."""
    tokens, width = prod(x[:-1]), weight[1] // 3
    scores = float(tokens * x[-2] * int(op.attributes.get("num_heads") or op.attributes.get("heads") or 1))
    kind = _class(net, op.inputs[0])
    products = 2.0 * tokens * prod(weight) + 4.0 * tokens * x[-2] * width
    return {f"{kind}.tensor": products, _plain(net, op.inputs[0]): WEIGHT["softmax"] * scores}


def _recurrent(op: Op, net: Net) -> Flops:
    """A multiply-add for each weight, step and row. Weights are the operands [directions, G H, ...] (ONNX: W and R, positions 1 and 2)
    or the matrices among the parameters (ATen)."""
    x = shape_of(net, operand(op, 0))
    steps = prod(x[:-1])
    shapes = [shape_of(net, name) for name in op.inputs[1:] if name]
    packed = len(shapes) > 1 and len(shapes[0]) == len(shapes[1]) == 3 and shapes[1][1] == GATES[op.kind] * shapes[1][2]
    weights = shapes[:2] if packed else [s for s in shapes if len(s) == 2]
    if not weights:
        raise Unknown("the weights of a recurrent op")
    hidden = sum(w[-2] for w in weights) / 2
    kind = _class(net, op.inputs[0])
    return {f"{kind}.tensor": 2.0 * steps * sum(prod(w) for w in weights), kind: WEIGHT["tanh"] * steps * hidden}


def _order(op: Op, net: Net) -> Flops:
    x = shape_of(net, operand(op, 0))
    width = x[int(op.attributes.get("axis", -1))] if x else 1
    return {_plain(net, op.inputs[0]): prod(x) * max(1.0, log2(max(width, 1)))}


def _pool(op: Op, net: Net) -> Flops:
    kernel = op.attributes.get("kernel") or op.attributes.get("kernel_shape")
    if kernel is None:
        return _per_element(op, net)
    return {_plain(net, op.inputs[0]): float(prod(shape_of(net, op.output)) * prod(kernel))}


def _resize(op: Op, net: Net) -> Flops:
    """Nearest copies; linear interpolates in each resized axis (three operations); cubic reads four neighbours (seven)."""
    mode = str(op.attributes.get("mode", "linear"))
    weight = 0.0 if "nearest" in mode else 14.0 if "cubic" in mode else 6.0
    return {_plain(net, op.output): weight * prod(shape_of(net, op.output))} if weight else {}


def _einsum(op: Op, net: Net) -> Flops:
    """Twice the product of the lengths of all indices of the equation, for two operands; once for one operand."""
    found = einsum_sizes(op, net)
    kind, several = _class(net, op.inputs[0]), len(found.operands)
    return {f"{kind}.tensor" if several > 1 else kind: float(several * prod(found.lengths.values()))}


def _exchange(op: Op, net: Net) -> Flops:
    """A device adds what it is sent to its own part of the sum; other collectives compute nothing."""
    if op.kind not in ("all_reduce", "reduce_scatter"):
        return {}
    sizes = [(_plain(net, name), prod(shape_of(net, name))) for name in op.inputs if name]
    return {kind: passed_on(op) * sum(size for each, size in sizes if each == kind) for kind, _ in sizes}


def _embedding(op: Op, net: Net) -> Flops:
    """Nothing, or a subtraction and a product for each number of a table in codes, whose scales are a third operand."""
    return (
        {_class(net, op.output): 2.0 * prod(shape_of(net, op.output))} if len([name for name in op.inputs if name]) > 2 else {}
    )


COUNTERS: dict[str, Callable[[Op, Net], Flops]] = {
    **dict.fromkeys(("matmul", "matmul_integer", "matmul_integer_to_float"), _matmul),
    "matmul_nbits": _matmul_nbits,
    "embedding": _embedding,
    **dict.fromkeys(kinds.CONVOLUTION, _conv),
    **dict.fromkeys(kinds.ATTENTION, _attention),
    **dict.fromkeys(kinds.RECURRENT, _recurrent),
    **dict.fromkeys(kinds.ORDER, _order),
    **dict.fromkeys(kinds.POOL, _pool),
    **dict.fromkeys(kinds.QUANTIZE, _quantize),
    **dict.fromkeys(kinds.COLLECTIVE, _exchange),
    "resize": _resize,
    "einsum": _einsum,
}
