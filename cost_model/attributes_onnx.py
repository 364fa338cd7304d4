"""Attributes of ONNX nodes in canonical form: opset differences, inputs that are really attributes, and defaults are settled here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .blocks_onnx import read_attention, read_einsum
from .kinds import REDUCTION
from .node_facts import NodeFacts, back, front


def describe(kind: str, facts: NodeFacts) -> tuple[str, tuple[str, ...], dict[str, Any]]:
    """(kind, operand names in canonical order, attributes). The kind is refined where it depends on more than the operator's name.

    Axes of softmax, norms and reductions are negative; every other axis is counted from the front (native if the rank is unknown).
    """
    if facts.op_type == "Trilu":
        return ("triu" if facts.native.get("upper", 1) else "tril"), facts.inputs, {}
    if facts.op_type == "Sum" and len(facts.inputs) == 1:
        return "identity", facts.inputs, {}
    if kind in REDUCTION:
        return kind, facts.inputs[:1] if kind in ("argmax", "argmin") else facts.inputs, _reduction(kind, facts)
    if kind == "einsum":
        return read_einsum(facts)
    if kind == "gather":
        axis = front(facts.native.get("axis", 0), facts.rank())
        table = axis == 0 and facts.rank() == 2 and facts.constant(0) is not None
        return ("embedding" if table else "gather"), facts.inputs, {"axis": axis}
    if kind == "attention":
        return kind, *read_attention(facts)
    read = _READERS.get(kind)
    return kind, facts.inputs, read(facts) if read else dict(facts.native)


def _matmul(facts: NodeFacts) -> dict[str, Any]:
    native = facts.native
    return {
        "transpose_a": bool(native.get("transA", 0)),
        "transpose_b": bool(native.get("transB", 0)),
        "alpha": float(native.get("alpha", 1.0)),
        "beta": float(native.get("beta", 1.0)),
    }


def _window(facts: NodeFacts, kernel: Sequence[int]) -> dict[str, Any]:
    """Strides, dilations and pads of a sliding window of `kernel` elements, with `auto_pad` worked out from the shapes."""
    native, size = facts.native, len(kernel)
    strides = [int(s) for s in native.get("strides", [1] * size)]
    dilations = [int(d) for d in native.get("dilations", [1] * size)]
    pads = [int(p) for p in native.get("pads", [0] * (2 * size))]
    mode, shape = native.get("auto_pad", "NOTSET"), facts.shape(0)
    if mode.startswith("SAME") and shape is not None and facts.op_type != "ConvTranspose":
        total = []
        for extent, k, stride, dilation in zip(shape[2:], kernel, strides, dilations, strict=False):
            total.append(max(0, (math.ceil(extent / stride) - 1) * stride + (k - 1) * dilation + 1 - extent))
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = small + large if mode == "SAME_UPPER" else large + small
    return {"strides": strides, "dilations": dilations, "pads": pads}


def _conv(facts: NodeFacts) -> dict[str, Any]:
    weight = facts.shape(1)
    kernel = facts.native.get("kernel_shape") or (weight[2:] if weight else ())
    more = {"activation": facts.native["activation"]} if "activation" in facts.native else {}
    transposed = facts.op_type == "ConvTranspose"
    if transposed:
        more["output_padding"] = list(facts.native.get("output_padding", [0] * len(kernel)))
    return {**_window(facts, kernel), "groups": int(facts.native.get("group", 1)), "transposed": transposed, **more}


def _pool(facts: NodeFacts) -> dict[str, Any]:
    kernel = [int(k) for k in facts.native.get("kernel_shape", ())]
    ceil_mode = bool(facts.native.get("ceil_mode", 0))
    include = bool(facts.native.get("count_include_pad", 0))
    return {"kernel": kernel, **_window(facts, kernel), "ceil_mode": ceil_mode, "count_include_pad": include}


def _softmax(facts: NodeFacts) -> dict[str, Any]:
    axis = back(int(facts.native.get("axis", 1 if facts.opset < 13 else -1)), facts.rank())
    # Before opset 13 all axes from `axis` on were flattened into one: the same thing only for the last.
    return {"axis": axis, "flattened": True} if facts.opset < 13 and axis != -1 else {"axis": axis}


def _layer_norm(facts: NodeFacts) -> dict[str, Any]:
    return {"axis": back(int(facts.native.get("axis", -1)), facts.rank()), "epsilon": float(facts.native.get("epsilon", 1e-5))}


def _norm(facts: NodeFacts) -> dict[str, Any]:
    return {"epsilon": float(facts.native.get("epsilon", 1e-12 if facts.op_type.startswith("Skip") else 1e-5))} | {
        k: v for k, v in facts.native.items() if k in ("num_groups", "training_mode")
    }


def _gelu(facts: NodeFacts) -> dict[str, Any]:
    return {"approximate": "tanh" if facts.op_type == "FastGelu" else facts.native.get("approximate", "none")}


def _silu(facts: NodeFacts) -> dict[str, Any]:
    return {"alpha": float(facts.native.get("alpha", 1.702 if facts.op_type == "QuickGelu" else 1.0))}


def _clip(facts: NodeFacts) -> dict[str, Any]:
    found = {}
    for index, name in enumerate(("min", "max"), start=1):
        array = facts.constant(index)
        value = facts.native.get(name) if array is None else np.asarray(array).reshape(-1)[0]
        if value is not None:
            found[name] = float(value)
    return found


def _reduction(kind: str, facts: NodeFacts) -> dict[str, Any]:
    rank, keep = facts.rank(), bool(facts.native.get("keepdims", 1))
    if kind in ("argmax", "argmin"):
        return {"axes": [back(int(facts.native.get("axis", 0)), rank)], "keepdims": keep}
    axes = facts.integers("axes", 1)
    if axes:
        return {"axes": [back(axis, rank) for axis in axes], "keepdims": keep}
    computed = len(facts.inputs) > 1 and facts.inputs[1] and axes is None
    if computed or rank is None:
        return {"axes": None, "keepdims": keep}
    return {"axes": [] if facts.native.get("noop_with_empty_axes", 0) else list(range(-rank, 0)), "keepdims": keep}


def _axis(facts: NodeFacts, default: int) -> dict[str, Any]:
    return {"axis": front(int(facts.native.get("axis", default)), facts.rank())}


def _split(facts: NodeFacts) -> dict[str, Any]:
    sizes = facts.integers("split", 1)
    axis = _axis(facts, 0)
    if sizes is None and all(shape is not None for shape in facts.output_shapes):
        sizes = [shape[axis["axis"]] for shape in facts.output_shapes if shape is not None]
    return {**axis, "sizes": sizes}


def _slice(facts: NodeFacts) -> dict[str, Any]:
    starts, ends = facts.integers("starts", 1), facts.integers("ends", 2)
    size = len(starts) if starts is not None else len(ends or ())
    axes = facts.integers("axes", 3) or list(range(size))
    steps = facts.integers("steps", 4) or [1] * size
    found: dict[str, Any] = {"axes": [front(a, facts.rank()) for a in axes], "starts": starts, "ends": ends, "steps": steps}
    if size == 1:
        found |= {
            "axis": found["axes"][0],
            "start": starts[0] if starts else None,
            "end": ends[0] if ends else None,
            "step": steps[0],
        }
    return found


def _squeeze(facts: NodeFacts) -> dict[str, Any]:
    axes = facts.integers("axes", 1)
    return {"axes": axes if axes is None else [front(axis, facts.rank()) for axis in axes]}


def _unsqueeze(facts: NodeFacts) -> dict[str, Any]:
    axes, rank = facts.integers("axes", 1), facts.rank()
    full = None if rank is None or axes is None else rank + len(axes)
    return {"axes": axes if axes is None else [front(axis, full) for axis in axes]}


def _transpose(facts: NodeFacts) -> dict[str, Any]:
    perm = facts.native.get("perm")
    return {"perm": list(perm) if perm is not None else list(range(facts.rank() or 0))[::-1]}


def _reshape(facts: NodeFacts) -> dict[str, Any]:
    return {"shape": facts.output_shapes[0]}


def _topk(facts: NodeFacts) -> dict[str, Any]:
    k = facts.integers("k", 1)
    return {**_axis(facts, -1), "k": k[0] if k else None, "largest": bool(facts.native.get("largest", 1))}


def _cumsum(facts: NodeFacts) -> dict[str, Any]:
    axis = facts.integers("axis", 1)
    return {"axis": front(axis[0], facts.rank()) if axis else None}


def _recurrent(facts: NodeFacts) -> dict[str, Any]:
    direction = facts.native.get("direction", "forward")
    layout = int(facts.native.get("layout", 0))
    return {
        "hidden": int(facts.native.get("hidden_size", 0)),
        "directions": 2 if direction == "bidirectional" else 1,
        "layout": layout,
    }


def _scan(facts: NodeFacts) -> dict[str, Any]:
    """How often the body runs: the length of the first of the inputs that it takes slice by slice."""
    count = int(facts.native.get("num_scan_inputs", 0))
    axis = (facts.native.get("scan_input_axes") or [0])[0]
    shape = facts.shape(len(facts.inputs) - count) if count else None
    return {**facts.native, **({"trips": shape[axis]} if shape else {})}


def _loop(facts: NodeFacts) -> dict[str, Any]:
    """The body runs as often as a constant count says, if the condition that goes in holds; whether the body changes it is seen where the
    body is (`view_onnx`)."""
    count, condition = facts.constant(0), facts.constant(1)
    counted = count is not None and (not facts.inputs[1] or (condition is not None and bool(np.all(condition))))
    return {**facts.native, **({"trips": int(np.asarray(count).reshape(-1)[0])} if counted else {})}


_READERS: Mapping[str, Callable[[NodeFacts], dict[str, Any]]] = {
    "matmul": _matmul,
    "conv": _conv,
    "conv_integer": _conv,
    "pool_max": _pool,
    "pool_avg": _pool,
    "softmax": _softmax,
    "log_softmax": _softmax,
    "layer_norm": _layer_norm,
    "rms_norm": _layer_norm,
    "batch_norm": _norm,
    "group_norm": _norm,
    "instance_norm": _norm,
    "skip_layer_norm": _norm,
    "gelu": _gelu,
    "silu": _silu,
    "clip": _clip,
    "scan": _scan,
    "loop": _loop,
    "concat": lambda facts: _axis(facts, 0),
    "split": _split,
    "slice": _slice,
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
    "transpose": _transpose,
    "reshape": _reshape,
    "topk": _topk,
    "cumsum": _cumsum,
    "gather_elements": lambda facts: _axis(facts, 0),
    "lstm": _recurrent,
    "gru": _recurrent,
    "rnn": _recurrent,
}
