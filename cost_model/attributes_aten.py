"""Attributes of ATen calls in canonical form, read from the arguments by their schema names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .kinds import REDUCTION
from .node_facts import back, front

Shape = tuple[int, ...] | None


@dataclass(frozen=True)
class CallFacts:
    """One call: operator name without namespace, arguments by schema name with every symbol put in as a number, the shapes of its
    operands and outputs. A node among the arguments is kept as it is."""

    name: str
    arguments: Mapping[str, Any]
    shapes: Sequence[Shape]
    output_shapes: Sequence[Shape]
    output_dtype: str | None

    def get(self, name: str, default: Any = None) -> Any:
        value = self.arguments.get(name)
        return default if value is None else value

    @property
    def rank(self) -> int | None:
        shape = self.shapes[0] if self.shapes else None
        return None if shape is None else len(shape)


def attributes_of(kind: str, facts: CallFacts) -> dict[str, Any]:
    """Attributes of the vocabulary for `kind`. Axes of softmax, norms and reductions are negative, others counted from the front."""
    if kind in REDUCTION:
        return _reduction(facts)
    read = _READERS.get(kind)
    return read(facts) if read else {}


def _matmul(facts: CallFacts) -> dict[str, Any]:
    return {
        "transpose_a": False,
        "transpose_b": facts.name == "linear",
        "alpha": float(facts.get("alpha", 1)),
        "beta": float(facts.get("beta", 1)),
    }


def _conv(facts: CallFacts) -> dict[str, Any]:
    weight = facts.shapes[1] if len(facts.shapes) > 1 else None
    size = len(weight) - 2 if weight else 2
    padding = facts.get("padding", [0])
    pads = [0] * size if isinstance(padding, str) else _repeat(padding, size)
    found = {
        "strides": _repeat(facts.get("stride", [1]), size),
        "pads": pads + pads,
        "dilations": _repeat(facts.get("dilation", [1]), size),
        "groups": int(facts.get("groups", 1)),
        "transposed": bool(facts.get("transposed", False)),
    }
    return found | ({"output_padding": list(facts.get("output_padding", []))} if found["transposed"] else {})


def _repeat(values: Any, size: int) -> list[int]:
    listed = [values] if isinstance(values, int) else list(values)
    return listed * size if len(listed) == 1 else listed


def _pool(facts: CallFacts) -> dict[str, Any]:
    size = int("".join(c for c in facts.name if c.isdigit()) or 2)
    kernel = _repeat(facts.get("kernel_size", [1]), size)
    pads = _repeat(facts.get("padding", [0]), size)
    return {
        "kernel": kernel,
        "strides": _repeat(facts.get("stride") or kernel, size),
        "dilations": _repeat(facts.get("dilation", [1]), size),
        "pads": pads + pads,
        "ceil_mode": bool(facts.get("ceil_mode", False)),
        "count_include_pad": bool(facts.get("count_include_pad", False)),
    }


def _attention(facts: CallFacts) -> dict[str, Any]:
    query, key = facts.shapes[0], facts.shapes[1]
    scale = facts.get("scale")
    if scale is None and query is not None:
        scale = 1.0 / math.sqrt(query[-1])
    heads = query[-3] if query is not None and len(query) > 2 else None
    kv_heads = key[-3] if key is not None and len(key) > 2 else None
    return {
        "scale": scale,
        "is_causal": bool(facts.get("is_causal", False)),
        "softcap": 0.0,
        "dropout": float(facts.get("dropout_p", 0.0)),
        "gqa": bool(facts.get("enable_gqa", False)),
        "layout": "BHND",
        "heads": heads,
        "kv_heads": kv_heads,
    }


def _layer_norm(facts: CallFacts) -> dict[str, Any]:
    epsilon = facts.get("eps", 1e-5)
    return {"axis": -len(facts.get("normalized_shape", [0])), "epsilon": float(epsilon)}


def _norm(facts: CallFacts) -> dict[str, Any]:
    groups = facts.get("group", facts.get("num_groups"))
    return {"epsilon": float(facts.get("eps", 1e-5))} | ({} if groups is None else {"num_groups": groups})


def _clip(facts: CallFacts) -> dict[str, Any]:
    low, high = facts.get("min"), facts.get("max")
    if facts.name in ("hardtanh", "relu6"):
        low, high = (
            facts.get("min_val", -1 if facts.name == "hardtanh" else 0),
            facts.get("max_val", 1 if facts.name == "hardtanh" else 6),
        )
    return {name: float(value) for name, value in (("min", low), ("max", high)) if isinstance(value, (int, float))}


def _reduction(facts: CallFacts) -> dict[str, Any]:
    axes = facts.get("dim")
    listed = [axes] if isinstance(axes, int) else list(axes or ())
    if not listed and facts.rank is not None:
        listed = list(range(facts.rank))
    return {"axes": [back(axis, facts.rank) for axis in listed], "keepdims": bool(facts.get("keepdim", False))}


def _axis(facts: CallFacts, default: int = 0) -> dict[str, Any]:
    return {"axis": front(facts.get("dim", default), facts.rank)}


def _split(facts: CallFacts) -> dict[str, Any]:
    axis = _axis(facts)
    if facts.name == "unbind":
        return {**axis, "sizes": [1] * len(facts.output_shapes), "squeeze": True}
    sizes = [None if shape is None else shape[axis["axis"]] for shape in facts.output_shapes]
    return {**axis, "sizes": None if None in sizes else sizes}


def _slice(facts: CallFacts) -> dict[str, Any]:
    axis = _axis(facts)["axis"]
    start, end, step = facts.get("start", 0), facts.get("end"), facts.get("step", 1)
    start, end = (None if not isinstance(bound, int) else bound for bound in (start, 2**63 - 1 if end is None else end))
    single = {"axis": axis, "start": start, "end": end, "step": step}
    return {
        **single,
        "axes": [axis],
        "starts": None if start is None else [start],
        "ends": None if end is None else [end],
        "steps": [step],
    }


def _transpose(facts: CallFacts) -> dict[str, Any]:
    rank = facts.rank or 0
    if facts.name == "permute":
        return {"perm": [front(axis, rank) for axis in facts.get("dims", ())]}
    perm = list(range(rank))
    first, second = (0, rank - 1) if facts.name == "t" else (front(facts.get("dim0"), rank), front(facts.get("dim1"), rank))
    if rank:
        perm[first], perm[second] = perm[second], perm[first]
    return {"perm": perm}


def _squeeze(facts: CallFacts) -> dict[str, Any]:
    axes = facts.get("dim")
    listed = [axes] if isinstance(axes, int) else list(axes or ())
    if axes is None and facts.shapes and facts.shapes[0] is not None:
        listed = [axis for axis, extent in enumerate(facts.shapes[0]) if extent == 1]
    return {"axes": [front(axis, facts.rank) for axis in listed]}


def _unsqueeze(facts: CallFacts) -> dict[str, Any]:
    return {"axes": [front(facts.get("dim", 0), None if facts.rank is None else facts.rank + 1)]}


def _recurrent(facts: CallFacts) -> dict[str, Any]:
    state, bidirectional = facts.output_shapes[1] if len(facts.output_shapes) > 1 else None, facts.get("bidirectional", False)
    return {
        "hidden": state[-1] if state else None,
        "directions": 2 if bidirectional else 1,
        "layers": int(facts.get("num_layers", 1)),
        "layout": 1 if facts.get("batch_first", False) else 0,
    }


def _full(facts: CallFacts) -> dict[str, Any]:
    """The number that fills the output, where it is one (`empty` has none)."""
    value = facts.get("fill_value", facts.get("s"))
    if value is None:
        value = next((number for word, number in (("zeros", 0), ("ones", 1)) if word in facts.name), None)
    return {"value": value} if isinstance(value, (bool, int, float)) else {}


_READERS: Mapping[str, Callable[[CallFacts], dict[str, Any]]] = {
    "matmul": _matmul,
    "einsum": lambda facts: {"equation": facts.get("equation", "")},
    "conv": _conv,
    "pool_max": _pool,
    "pool_avg": _pool,
    "attention": _attention,
    "softmax": lambda facts: {"axis": back(facts.get("dim", -1), facts.rank)},
    "log_softmax": lambda facts: {"axis": back(facts.get("dim", -1), facts.rank)},
    "layer_norm": _layer_norm,
    "rms_norm": _layer_norm,
    "batch_norm": lambda facts: _norm(facts) | {"training": bool(facts.get("training", False))},
    "dropout": lambda facts: {"training": bool(facts.get("train", False)) and facts.get("p", 0.5) > 0},
    "full": _full,
    "group_norm": _norm,
    "instance_norm": _norm,
    "gelu": lambda facts: {"approximate": facts.get("approximate", "none")},
    "clip": _clip,
    "cast": lambda facts: {"to": facts.output_dtype},
    "cumsum": _axis,
    "topk": lambda facts: {**_axis(facts, -1), "k": facts.get("k"), "largest": bool(facts.get("largest", True))},
    "sort": lambda facts: _axis(facts, -1),
    "reshape": lambda facts: {"shape": facts.output_shapes[0]},
    "transpose": _transpose,
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
    "slice": _slice,
    "concat": _axis,
    "stack": _axis,
    "split": _split,
    "gather": _axis,
    "gather_elements": _axis,
    "embedding": lambda facts: {"axis": 0},
    "lstm": _recurrent,
    "gru": _recurrent,
    "rnn": _recurrent,
}
