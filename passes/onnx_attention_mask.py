"""The mask of an attention as the additive bias [B or 1, H or 1, N, S] that onnxruntime's MultiHeadAttention reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import onnx_ir as ir

from ..cost_model.net import Net
from ..cost_model.sites import AttentionSite, SiteMask
from .attention_masks import ABSORBING
from .attention_walk import climb
from .axes import whole
from .constants import number
from .onnx_pass import Surgeon, operation
from .onnx_shapes import Proofs, Size


def mask_refusal(site: AttentionSite, net: Net) -> str:
    """One sentence that says why the mask of the site cannot be such a bias; "" if it can, or if there is none."""
    if site.masks:
        return _several_refusal(site, net)
    fills = _fills(site, (net.ops[op].inputs[1:3] for op in site.ops if net.ops[op].kind == "where"), net.scalar)
    masked = [fill for fill in fills if fill != 0]
    boolean = site.mask_kind.startswith("boolean") and bool(site.mask)
    if len(masked) != boolean or any(fill is None or not fill <= ABSORBING for fill in masked):
        return f"What attention {site.id} puts in place of masked scores is not one constant near the smallest float32."
    if not site.mask:
        return ""
    shape, dtype = net.shape(site.mask), net.values[site.mask].dtype
    scores = (site.batch, site.heads, site.query_length, site.key_length)
    aligned = (*(1,) * (4 - len(shape)), *shape) if shape is not None and len(shape) <= 4 else None
    if aligned is None or any(size not in (1, whole) for size, whole in zip(aligned, scores, strict=True)):
        return f"The mask {site.mask} of attention {site.id} does not broadcast to [batch, heads, queries, keys]."
    if dtype != ("bool" if boolean else "float32"):
        return (
            f"The {site.mask_kind} mask {site.mask} of attention {site.id} is {dtype}, which MultiHeadAttention does not take."
        )
    return ""


def _several_refusal(site: AttentionSite, net: Net) -> str:
    for mask in site.masks:
        dtype, boolean = net.values[mask.value].dtype, mask.kind != "additive"
        if boolean and mask.fill > ABSORBING:
            return f"What attention {site.id} puts in place of masked scores is {mask.fill:g}, not near the smallest float32."
        if dtype != ("bool" if boolean else "float32"):
            return (
                f"The {mask.kind} mask {mask.value} of attention {site.id} is {dtype}, which MultiHeadAttention does not take."
            )
    return ""


def leaves_finite(site: AttentionSite, net: Net) -> bool:
    """Whether nothing that the masks of a site add or put in is infinite, at any length."""
    if not site.masks:
        fills = [net.scalar(name) for op in site.ops if net.ops[op].kind == "where" for name in net.ops[op].inputs[1:3]]
        if any(fill is not None and math.isinf(fill) for fill in fills):
            return False
        return not site.mask or site.mask_kind != "additive" or _chosen_finite(net, site.mask)
    return all(_chosen_finite(net, mask.value) if mask.kind == "additive" else math.isfinite(mask.fill) for mask in site.masks)


def _chosen_finite(net: Net, value: str) -> bool:
    """Whether `value` is a choice between two finite numbers, or a view of one."""
    layout = tuple(whole(str(axis), size) for axis, size in enumerate(net.shape(value) or ()))
    op = net.producer(climb(net, value, layout, moves_only=True)[-1].value)
    branches = [number(net, name) for name in op.inputs[1:]] if op is not None and op.kind == "where" else []
    return bool(branches) and all(branch is not None and math.isfinite(branch) for branch in branches)


def guarded(site: AttentionSite, surgeon: Surgeon) -> bool:
    """Whether the site writes 0 where the weights of a row are NaN, as its mask hides everything from it."""
    return bool(site.mask) and 0 in _site_fills(site, surgeon)


def _fills(
    site: AttentionSite, operands: Iterable[tuple[str, ...]], scalar: Callable[[str], float | None]
) -> list[float | None]:
    """The constants that the Where ops of a site put in: 0 behind the softmax (a guard), something very negative before it (a mask).
    onnxruntime's Attention operator does both inside, with minus infinity (seen in version 1.31)."""
    if site.form == "operator" and site.mask:
        return [-math.inf, 0.0]
    return [scalar(first) if scalar(second) is None else scalar(second) for first, second in operands]


def _site_fills(site: AttentionSite, surgeon: Surgeon) -> list[float | None]:
    nodes = [surgeon.nodes[op] for op in site.ops]
    operands = (
        tuple(value.name or "" if value else "" for value in node.inputs[1:3]) for node in nodes if node.op_type == "Where"
    )
    return _fills(site, operands, surgeon.scalar)


class AttentionMasks:
    """The biases made so far in one model: layers of the same mask and of the same lengths share one."""

    def __init__(self, surgeon: Surgeon, proofs: Proofs) -> None:
        self.surgeon = surgeon
        self.proofs = proofs
        self.known: dict[tuple[object, ...], ir.Value] = {}

    def bias(self, site: AttentionSite, query: ir.Value, key: ir.Value, nodes: list[ir.Node]) -> ir.Value:
        """The bias of the site, whose packed operands are `query` [B, N, H * D] and `key` [B, S, H * D]; new nodes go to `nodes`."""
        if site.masks:
            return self._of_several(site, (query, key), nodes)
        mask, inferred = self.surgeon.value(site.mask), self._lengths(site, 0)
        fill = next((fill for fill in _site_fills(site, self.surgeon) if fill), None)
        mark = (site.mask, site.mask_kind, fill, inferred or (site.id,))
        if mark not in self.known:
            shapes = self.proofs.of(mask)
            whole = any(
                shape is not None and len(shape) == 4 and shape[2:] == self._lengths(site, i) for i, shape in enumerate(shapes)
            )
            additive = mask if fill is None else self._additive(site, mask, fill, nodes)
            self.known[mark] = additive if whole else self._spread(site, additive, inferred, (query, key), nodes)
        return self.known[mark]

    def beside_sink(
        self, site: AttentionSite, bias: ir.Value | None, query: ir.Value, key: ir.Value, nodes: list[ir.Node]
    ) -> ir.Value:
        """The bias [B, H, N, S + 1]: what `bias` says of the keys, and in the last column the sink of the site."""
        name, heads = f"{site.id}.sink", self.surgeon.shared(np.array([site.heads], np.int64), f"size_{site.heads}")
        rows = [self._length(query, f"{name}.batch", nodes, axis=0), heads, self._length(query, f"{name}.query", nodes)]
        columns = [self._length(key, f"{name}.key", nodes), self.surgeon.shared(np.array([1], np.int64), "one")]
        parts = [bias or self.surgeon.shared(np.zeros((), np.float32), "attended"), self.surgeon.value(site.sink)]
        for part, width, role in zip(parts, columns, ("scores", "sink"), strict=True):
            nodes.append(operation("Concat", [*rows, width], f"{name}.{role}_shape", axis=0))
            nodes.append(operation("Expand", [part, nodes[-1].outputs[0]], f"{name}.{role}"))
        nodes.append(operation("Concat", [nodes[-3].outputs[0], nodes[-1].outputs[0]], f"{name}.bias", axis=-1))
        return nodes[-1].outputs[0]

    def _lengths(self, site: AttentionSite, source: int) -> tuple[Size, Size] | None:
        """The numbers of queries and keys in that source of sizes, None if it does not know both."""
        query = self.proofs.of(self.surgeon.value(site.query))[source]
        key = self.proofs.of(self.surgeon.value(site.key))[source]
        if query is None or key is None or len(query) != 4 or len(key) != 4:
            return None
        lengths = query[2], key[3 if site.key_transposed else 2]
        return None if None in lengths else lengths

    def _additive(self, site: AttentionSite, mask: ir.Value, fill: float, nodes: list[ir.Node]) -> ir.Value:
        zero = self.surgeon.shared(np.zeros((), np.float32), "attended")
        low = self.surgeon.shared(np.array(fill, np.float32), f"masked_{fill:.0f}")
        branches = (zero, low) if site.mask_kind == "boolean" else (low, zero)
        nodes.append(operation("Where", [mask, *branches], f"{site.id}.additive_mask"))
        return nodes[-1].outputs[0]

    def _of_several(self, site: AttentionSite, packed: tuple[ir.Value, ir.Value], nodes: list[ir.Node]) -> ir.Value:
        lengths = self._lengths(site, 0)
        mark = (site.masks, lengths or (site.id,))
        if mark not in self.known:
            self.known[mark] = self._spread(site, self._joined(site, packed, nodes), lengths, packed, nodes)
        return self.known[mark]

    def _joined(self, site: AttentionSite, packed: tuple[ir.Value, ir.Value], nodes: list[ir.Node]) -> ir.Value:
        """What all masks together do to scores of 0, in their order: exact, since what is filled in is far below any score."""
        total: ir.Value = self.surgeon.shared(np.zeros((), np.float32), "attended")
        for index, mask in enumerate(site.masks):
            value, name = self._seen_as(site, mask, packed, f"{site.id}.mask_{index}", nodes), f"{site.id}.mask_{index}"
            if mask.kind == "additive":
                if mask.factor != 1.0:
                    factor = self.surgeon.shared(np.array(mask.factor, np.float32), f"factor_{mask.factor:g}")
                    nodes.append(operation("Mul", [value, factor], f"{name}.scaled"))
                    value = nodes[-1].outputs[0]
                nodes.append(operation("Add", [total, value], f"{name}.added"))
            else:
                low = self.surgeon.shared(np.array(mask.fill, np.float32), f"masked_{mask.fill:.0f}")
                branches = (total, low) if mask.kind == "boolean" else (low, total)
                nodes.append(operation("Where", [value, *branches], f"{name}.filled"))
            total = nodes[-1].outputs[0]
        return total

    def _seen_as(
        self, site: AttentionSite, mask: SiteMask, packed: tuple[ir.Value, ir.Value], name: str, nodes: list[ir.Node]
    ) -> ir.Value:
        """The value of a mask so that it broadcasts over the scores; the batch is left to the Reshape."""
        value = self.surgeon.value(mask.value)
        if not mask.axes:
            return value
        parts: list[ir.Value] = []
        for axis in mask.axes:
            if axis in "NS":
                parts.append(self._length(packed["NS".index(axis)], f"{name}.{axis}", nodes))
            else:
                size = {"B": -1, "H": site.heads, "1": 1}[axis]
                parts.append(self.surgeon.shared(np.array([size], np.int64), f"size_{size}".replace("-", "minus_")))
        nodes.append(operation("Concat", parts, f"{name}.shape", axis=0))
        nodes.append(operation("Reshape", [value, nodes[-1].outputs[0]], f"{name}.seen"))
        return nodes[-1].outputs[0]

    def _length(self, packed: ir.Value, name: str, nodes: list[ir.Node], axis: int = 1) -> ir.Value:
        """A size of a packed operand, by default its length, [1]."""
        place = self.surgeon.shared(np.array([axis], np.int64), "one" if axis == 1 else f"size_{axis}")
        nodes.append(operation("Shape", [packed], f"{name}_shape"))
        nodes.append(operation("Gather", [nodes[-1].outputs[0], place], f"{name}_length"))
        return nodes[-1].outputs[0]

    def _spread(
        self,
        site: AttentionSite,
        mask: ir.Value,
        lengths: tuple[Size, Size] | None,
        packed: tuple[ir.Value, ir.Value],
        nodes: list[ir.Node],
    ) -> ir.Value:
        """The mask over all queries and keys: MultiHeadAttention broadcasts the batch and the heads, but not these."""
        if lengths is not None and all(isinstance(length, int) for length in lengths):
            target = self.surgeon.shared(np.array([1, 1, *lengths], np.int64), f"scores_{lengths[0]}_{lengths[1]}")
        else:
            one = self.surgeon.shared(np.array([1], np.int64), "one")
            sizes = [one, one]
            for role, value in zip(("query", "key"), packed, strict=True):
                sizes.append(self._length(value, f"{site.id}.{role}", nodes))
            nodes.append(operation("Concat", sizes, f"{site.id}.scores_shape", axis=0))
            target = nodes[-1].outputs[0]
        nodes.append(operation("Expand", [mask, target], f"{site.id}.attention_bias"))
        return nodes[-1].outputs[0]
