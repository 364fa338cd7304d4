"""Readable names: a site is called by the module path that made it where that is its own, else by its op."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..cost_model.net import Op

_MOST_PARTS = 4


def site_names(anchors: Sequence[Op]) -> dict[str, str]:
    """Op id -> name, all different: the module of the op if no other anchor has it or is called so, else the op id."""
    modules = {op.id: module_of(op.origin) for op in anchors}
    count = Counter(modules.values())
    return {
        op: name if name and count[name] == 1 and (name == op or name not in modules) else op for op, name in modules.items()
    }


def module_of(origin: str) -> str:
    """ "encoder.layer.0.query" of itself and of "/encoder/layer.0/query/MatMul", as torch's older ONNX exporter calls a node."""
    return ".".join(origin.split("/")[1:-1]) if origin.startswith("/") else origin


def group_name(names: Sequence[str]) -> str:
    """One name for sites that are decided together: "self.query+key+value" where they share a module, else the first and a count."""
    parts = [name.rpartition(".") for name in names]
    if len(names) > _MOST_PARTS or len({parent for parent, _, _ in parts}) > 1:
        return f"{names[0]}+{len(names) - 1}"
    return "".join(parts[0][:2]) + "+".join(own for _, _, own in parts)
