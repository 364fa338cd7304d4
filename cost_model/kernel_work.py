"""The kernel that runs an op on a CPU runtime, and its work in the features that its time is linear in.

A kernel is a group of ops that one measured law serves: "matmul" by a constant weight, "conv.depthwise", "softmax". A law is fitted on
microbenchmarks (rewriter/calibrate_cpu.py) and predicts models, so both count by these functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

from . import kinds
from .counts import count, with_captured
from .counts_traffic import SILENT, is_constant, root, traffic
from .net import Net, Op

RUN = "run"
"""The kernel of a whole call of the model: what a runtime spends before and after its ops."""

VIEW, COPY, COMPARE, REDUCE = "view", "copy", "compare", "reduce"
_GROUPS = {
    **dict.fromkeys(SILENT, VIEW),
    **dict.fromkeys(kinds.MATERIALISED - kinds.GATHER - {"transpose", "reorder"}, COPY),
    **dict.fromkeys(kinds.COMPARISON, COMPARE),
    **dict.fromkeys(kinds.REDUCTION, REDUCE),
}
"""Kinds that one law serves: they differ in name, not in what they move."""

_LEVELS, _BYTES, _WEIGHTS = "levels", "bytes", "weights"
_FEATURES: Mapping[str, tuple[str, ...]] = {
    "matmul": ("flop", _LEVELS, _WEIGHTS),
    "matmul.activations": ("flop", _LEVELS),
    **dict.fromkeys(("matmul_integer", "matmul_integer_to_float", "matmul_nbits"), ("flop", _BYTES, _WEIGHTS)),
    **dict.fromkeys(kinds.ATTENTION, ("flop", "vector_flop", _BYTES)),
    **dict.fromkeys(("conv.pointwise", "conv.direct"), ("flop", _LEVELS, _WEIGHTS)),
    "conv.depthwise": ("flop", _LEVELS),
    **dict.fromkeys(("conv.image", "conv.transposed", "conv_integer"), ("flop", _BYTES)),
    "conv.gemm": ("flop", _BYTES, _WEIGHTS),
    **dict.fromkeys(kinds.RECURRENT, ("flop", _WEIGHTS)),
    **dict.fromkeys(kinds.POOL, ("vector_flop",)),
    "embedding": (_WEIGHTS,),
    **dict.fromkeys((VIEW, "if", *kinds.CONTROL), ()),
}
"""What the time of a kernel is linear in, besides its calls; `_LEVELS`, bytes by where they fit, for every kernel that is not listed. Only
what microbenchmarks can tell apart: the bytes of a pool are proportional to its flops."""


def kernel_name(op: Op, net: Net) -> str:
    """The kernel of `op`: its kind or the group that shares a law, refined where one kind has several kernels."""
    kind = _GROUPS.get(op.kind, op.kind)
    if op.kind in ("matmul", "einsum"):
        return "matmul" if len(op.inputs) > 1 and is_constant(op.inputs[1], net) else "matmul.activations"
    if op.kind in ("matmul_integer", "matmul_integer_to_float"):
        # Products of two unsigned operands have no instruction of their own and took 1.7 times as long.
        signs = "unsigned" if _dtype(op.inputs[1], net) == "uint8" else "signed"
        how = ".dynamic" if "Dynamic" in op.target else ".static" if op.kind == "matmul_integer_to_float" else ""
        return f"{kind}{how}.{signs}"
    if op.kind == "conv_integer" and int(op.attributes.get("groups", 1)) > 1:
        return "conv_integer.grouped"
    if op.kind == "matmul_nbits":
        return f"{kind}.{op.attributes.get('bits', 4)}bits.level{op.attributes.get('accuracy_level', 0)}"
    if op.kind == "conv":
        return f"conv.{_convolution(op, net)}"
    if op.target.endswith("BiasGelu"):
        return "gelu.bias"
    if op.kind == "transpose":
        order = op.attributes.get("perm") or [0]
        return "transpose.rows" if order[-1] == len(order) - 1 else "transpose.elements"
    if op.kind in kinds.POOL and "nchwc" in op.target:
        return f"{kind}.blocked"
    if op.kind == "cast":
        return f"cast.{'-'.join(sorted(str(_dtype(name, net)) for name in (op.inputs[0], op.output)))}"
    if op.kind in kinds.BINARY | kinds.TERNARY and _broadcast(op, net):
        return f"{kind}.broadcast"
    return kind


def _dtype(name: str, net: Net) -> str | None:
    value = net.values.get(name)
    return value.dtype if value else None


def _convolution(op: Op, net: Net) -> str:
    """Which of onnxruntime's convolutions runs; "gemm" is the one that unfolds its input."""
    weight, image = net.shape(op.inputs[1]), net.shape(op.inputs[0])
    if op.attributes.get("transposed"):
        return "transposed"
    if weight is None or image is None or "nchwc" not in op.target:
        return "gemm"
    if int(op.attributes.get("groups", 1)) > 1 and weight[1] == 1:
        return "depthwise"
    if image[1] < 16:  # fewer channels than a vector register holds: the image comes in its own layout
        return "image"
    return "pointwise" if prod(weight[2:]) == 1 and prod(op.attributes.get("strides") or [1]) == 1 else "direct"


def _broadcast(op: Op, net: Net) -> bool:
    """Whether an operand with more than one element is smaller than the output."""
    whole = prod(net.shape(op.output) or ())
    sizes = [prod(shape) for shape in (net.shape(name) for name in op.inputs if name) if shape is not None]
    return any(1 < size < whole for size in sizes)


def kernel_work(op: Op, net: Net, kernel: str, caches: tuple[float, float], resident: bool) -> dict[str, float]:
    """Feature -> amount of one op that runs as `kernel`; the features are those of `device.TIME_UNITS`.

    `caches` are the capacities of the cores' own caches and of the last one [B]; `resident` says that all weights of the net stay in the
    last one.
    """
    wanted = _FEATURES.get(kernel, _FEATURES.get(kernel.partition(".")[0], (_LEVELS,)))
    work = {"call": _inner_calls(op, net, kernel)}
    if not wanted:
        return work
    counts = count(op, net)
    matrix = sum(flops for dtype, flops in counts.flops.items() if dtype.endswith(".tensor"))
    moved = traffic(op, net)
    values = (*moved.reads.items(), *moved.writes.items())
    weights = sum(size for name, size in values if is_constant(name, net))
    activations = sum(size for _, size in values) - weights
    own, last = caches
    if "flop" in wanted:
        work["flop"] = matrix
    if "vector_flop" in wanted:
        work["vector_flop"] = sum(counts.flops.values()) - matrix
    if _LEVELS in wanted:
        work["near_byte" if activations <= own else "cached_byte" if activations <= last else "memory_byte"] = activations
    if _BYTES in wanted:
        work["cached_byte"] = activations
    if _WEIGHTS in wanted:
        # Each image of a convolution that unfolds its input is a product of its own, and reads the weights again.
        images = (net.shape(op.inputs[0]) or (1,))[0] if kernel == "conv.gemm" else 1
        work["cached_weight_byte" if resident else "memory_weight_byte"] = weights * images
    return {feature: amount for feature, amount in work.items() if amount}


def _inner_calls(op: Op, net: Net, kernel: str) -> float:
    """How often the kernel starts: a convolution that unfolds its input once for each image and group, a recurrence or loop
    for each step."""
    shape = net.shape(op.inputs[0]) if op.inputs else None
    if shape and kernel in ("conv.gemm", "conv_integer", "conv_integer.grouped"):
        return float(shape[0] * int(op.attributes.get("groups", 1)))
    if op.kind in kinds.CONTROL:
        return float(op.attributes.get("trips", 1))
    return float(shape[0]) if shape and op.kind in kinds.RECURRENT else 1.0


def net_work(net: Net, caches: tuple[float, float]) -> dict[str, tuple[str, dict[str, float]]]:
    """Op id -> (kernel, work) of every op that a runtime calls, those of the branches that are taken and of the bodies of loops included:
    these as often as they run."""
    resident = _weight_bytes(net) <= caches[1]
    found = {}
    for op, within, times in _called(net):
        kernel = kernel_name(op, within)
        work = kernel_work(op, within, kernel, caches, resident)
        found[op.id] = kernel, {feature: amount * times for feature, amount in work.items()}
    return found


def total_work(work: Mapping[str, tuple[str, Mapping[str, float]]]) -> dict[str, float]:
    """The work of a whole call as one row of a design: "<kernel>.<feature>" -> amount, with one call of `RUN`."""
    row = {f"{RUN}.call": 1.0}
    for kernel, features in work.values():
        for feature, amount in features.items():
            key = f"{kernel}.{feature}"
            row[key] = row.get(key, 0.0) + amount
    return row


def _called(net: Net, times: int = 1) -> Iterator[tuple[Op, Net, int]]:
    """Each op that is called, the net that it is in, and how often."""
    for op in net.ops.values():
        if op.kind == "constant":
            continue
        yield op, net, times
        taken, trips = op.attributes.get("taken"), op.attributes.get("trips", 1)
        for body in op.branches[taken : taken + 1] if taken is not None else ():
            yield from _called(with_captured(body, net), times * trips)


def _weight_bytes(net: Net) -> float:
    """Bytes of constants that one call reads [B]: of an embedding only the rows."""
    read: dict[str, float] = {}
    for op, within, _ in _called(net):
        for name, size in traffic(op, within).reads.items():
            if is_constant(name, within):
                read[root(name, within)] = max(size, read.get(root(name, within), 0.0))
    return sum(read.values())
