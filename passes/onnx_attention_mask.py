"""The mask of an attention as the additive bias [B or 1, H or 1, N, S] that onnxruntime's MultiHeadAttention reads."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..cost_model.net import Net
from ..cost_model.sites import AttentionSite
from .onnx_pass import Surgeon, operation

# Adding a float32 below this to any score of ordinary size gives that float32 back, so that adding it and writing it are the same.
ABSORBING = -1e30


def mask_refusal(site: AttentionSite, net: Net) -> str:
    """One sentence that says why the mask of the site cannot be such a bias; "" if it can, or if there is none."""
    if not site.mask:
        return ""
    shape = net.shape(site.mask)
    scores = (site.batch, site.heads, site.query_length, site.key_length)
    aligned = (*(1,) * (4 - len(shape)), *shape) if shape is not None and len(shape) <= 4 else None
    if aligned is None or any(size not in (1, whole) for size, whole in zip(aligned, scores, strict=True)):
        return f"The mask {site.mask} of attention {site.id} does not broadcast to [batch, heads, queries, keys]."
    if site.mask_kind == "additive":
        dtype = net.values[site.mask].dtype
        return "" if dtype == "float32" else f"The additive mask {site.mask} of attention {site.id} is {dtype}, not float32."
    fills = [net.scalar(name) for op in site.ops for name in _fill_operands(site, net, op)]
    if len(fills) != 1 or fills[0] is None or not fills[0] <= ABSORBING:
        return f"What attention {site.id} writes where its mask {site.mask} is false is not one constant near the smallest float32."
    return ""


def _fill_operands(site: AttentionSite, net: Net, op_id: str) -> tuple[str, ...]:
    op = net.ops[op_id]
    if op.kind != "where":
        return ()
    if op.inputs[0] == site.mask:
        return (op.inputs[2],)
    negation = net.producer(op.inputs[0])
    return (op.inputs[1],) if negation is not None and negation.kind == "not" and negation.inputs[0] == site.mask else ()


class AttentionMasks:
    """The biases made so far in one model: layers of the same mask and of the same lengths share one."""

    def __init__(self, surgeon: Surgeon) -> None:
        self.surgeon = surgeon
        self.known: dict[tuple[object, ...], ir.Value] = {}

    def bias(self, site: AttentionSite, query: ir.Value, key: ir.Value, nodes: list[ir.Node]) -> ir.Value:
        """The bias of the site, whose packed operands are `query` [B, N, H * D] and `key` [B, S, H * D]; new nodes go to `nodes`."""
        lengths = (
            _length(query, self.surgeon.value(site.query), 2),
            _length(key, self.surgeon.value(site.key), 3 if site.key_transposed else 2),
        )
        fill = self._fill(site) if site.mask_kind == "boolean" else None
        mark: object = lengths if None not in lengths else site.id
        if (site.mask, fill, mark) not in self.known:
            self.known[site.mask, fill, mark] = self._make(site, fill, lengths, (query, key), nodes)
        return self.known[site.mask, fill, mark]

    def _make(
        self,
        site: AttentionSite,
        fill: float | None,
        lengths: tuple[object, object],
        packed: tuple[ir.Value, ir.Value],
        nodes: list[ir.Node],
    ) -> ir.Value:
        mask, name = self.surgeon.value(site.mask), f"{site.id}.attention_bias"
        shape = mask.shape
        if fill is not None:
            zero = self.surgeon.shared(np.zeros((), np.float32), "attends")
            masked = self.surgeon.shared(np.array(fill, np.float32), f"masked_{fill:.0f}")
            nodes.append(operation("Where", [mask, zero, masked], f"{name}.additive"))
            mask = nodes[-1].outputs[0]
        if shape is not None and len(shape) == 4 and None not in lengths and (_size(shape[2]), _size(shape[3])) == lengths:
            return mask
        if all(isinstance(length, int) for length in lengths):
            target = self.surgeon.shared(np.array([1, 1, *lengths], np.int64), f"scores_{lengths[0]}_{lengths[1]}")
        else:
            one, axis = self.surgeon.shared(np.array([1], np.int64), "one"), self.surgeon.shared(np.array([1], np.int64), "one")
            sizes = []
            for role, value in zip(("query", "key"), packed, strict=True):
                nodes.append(operation("Shape", [value], f"{name}.{role}_shape"))
                nodes.append(operation("Gather", [nodes[-1].outputs[0], axis], f"{name}.{role}_length"))
                sizes.append(nodes[-1].outputs[0])
            nodes.append(operation("Concat", [one, one, *sizes], f"{name}.shape", axis=0))
            target = nodes[-1].outputs[0]
        nodes.append(operation("Expand", [mask, target], name))
        return nodes[-1].outputs[0]

    def _fill(self, site: AttentionSite) -> float:
        for op in site.ops:
            node = self.surgeon.nodes[op]
            if node.op_type == "Where":
                condition = node.inputs[0]
                assert condition is not None
                direct = condition.name == site.mask
                producer = condition.producer()
                negated = producer is not None and producer.op_type == "Not" and producer.inputs[0].name == site.mask  # type: ignore[union-attr]
                if direct or negated:
                    return float(self.surgeon.array(str(node.inputs[2 if direct else 1].name)).reshape(()))  # type: ignore[union-attr]
        raise AssertionError(f"Site {site.id} has a boolean mask and no Where that reads it.")


def _size(size: int | ir.SymbolicDim) -> object:
    return size if isinstance(size, int) else size.value


def _length(packed: ir.Value, split: ir.Value, axis: int) -> object:
    """A size that the graph declares (a number or a symbol), None if it does not."""
    if packed.shape is not None and len(packed.shape) == 3 and _size(packed.shape[1]) is not None:
        return _size(packed.shape[1])
    return _size(split.shape[axis]) if split.shape is not None and len(split.shape) == 4 else None
