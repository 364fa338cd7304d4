"""Hand-written attention becomes torch's fused operator: action "fused_attention", exact to rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch.fx import GraphModule, Node

from ..cost_model.errors import InputError
from ..cost_model.net import Net
from ..cost_model.plan import Choice
from ..cost_model.sites import AttentionSite, Site
from .fx_attention_mask import attention_mask, beside_sink
from .fx_graph import aten, insert_call, node_of_value, nodes_by_name, take_over
from .fx_pass import FxPass

ACTION = "fused_attention"
RANK = 4


@dataclass(frozen=True)
class FxAttention(FxPass):
    """softmax(scale q k^T + mask) v, found by the walk, becomes one aten.scaled_dot_product_attention:

    1. k stored as k^T is transposed back, a view;
    2. fewer key heads than query heads: `enable_gqa`, no repeated keys;
    3. an additive mask is cast to the dtype of q and given four axes;
    4. a boolean mask that fills with -inf goes in as it is (or negated); one that fills with a finite number becomes additive, with the
       lowest number of the dtype, because a row that is masked everywhere must stay the mean of v;
    5. several masks become one additive mask;
    6. another shape or dtype behind the site is restored;
    7. an attention sink becomes the score of one more key of zeros, whose value is zeros: exact, as the softmax sees the same numbers.
    """

    name: ClassVar[str] = ACTION

    def rewrite(self, graph: GraphModule, choices: Sequence[Choice], sites: Mapping[str, Site]) -> int:
        """Counts the sites replaced. Raises InputError for a site that is not in the graph."""
        changed = 0
        for choice in choices:
            for name in choice.sites if choice.action == ACTION else ():
                site = sites.get(name)
                if not isinstance(site, AttentionSite):
                    raise InputError(
                        f"The plan names the attention site {name!r}, which was not found in this model; make it again."
                    )
                if site.form == "walk" and all(op in nodes_by_name(graph) for op in site.ops):
                    _fuse(graph, site)
                    changed += 1
        return changed


def refusal(site: AttentionSite, net: Net) -> str:
    """One sentence that says why this site cannot become torch's operator; "" if it can."""
    if site.form != "walk":
        return "It already is one attention operator."
    if site.softcap:
        return f"Its scores are capped by {site.softcap:g} * tanh, which torch's attention operator cannot do."
    if site.kv_heads and site.heads % site.kv_heads:
        return f"Its {site.heads} query heads are no multiple of its {site.kv_heads} key heads."
    if site.causal and site.mask:
        return "It is causal and has a mask too; torch's attention operator takes one of them."
    if site.causal and site.query_length != site.key_length:
        return f"It is causal with {site.query_length} queries for {site.key_length} keys, which runtimes align differently."
    for value in (site.query, site.key, site.value):
        shape = net.shape(value)
        if shape is None or len(shape) != RANK:
            return f"Its operand {value} is {list(shape or ())}, not [batch, heads, length, features]."
    return ""


def _fuse(graph: GraphModule, site: AttentionSite) -> None:
    output = node_of_value(graph, site.output)
    query, key, value = (node_of_value(graph, name) for name in (site.query, site.key, site.value))
    with graph.graph.inserting_before(output):
        if site.key_transposed:
            key = insert_call(graph, aten.transpose.int, (key, -2, -1), like=output)
        mask = attention_mask(graph, site, query, output) if site.mask else None
        if site.sink:
            key, value, mask = beside_sink(graph, site, (query, key, value), mask, output)
        keywords: dict[str, object] = {} if mask is None else {"attn_mask": mask}
        keywords |= {"is_causal": True} if site.causal else {}
        keywords |= {"scale": site.scale}
        keywords |= {"enable_gqa": True} if site.kv_heads != site.heads else {}
        new = insert_call(graph, aten.scaled_dot_product_attention.default, (query, key, value), keywords, like=output)
        new = _restored(graph, new, output)
    take_over(new, output)


def _restored(graph: GraphModule, new: Node, output: Node) -> Node:
    """`new` in the shape and dtype of `output` (rule 6)."""
    wanted, have = output.meta["val"], new.meta["val"]
    if have.dtype != wanted.dtype:
        new = insert_call(graph, aten._to_copy.default, (new,), {"dtype": wanted.dtype}, like=output)
    if have.dim() != wanted.dim():
        inner = [size if isinstance(size, int) else None for size in wanted.shape]
        if inner.count(None) > 1:
            raise InputError(
                f"The value {output.name!r} behind an attention site has a shape that cannot be restored: {wanted.shape}."
            )
        new = insert_call(graph, aten.reshape.default, (new, [-1 if size is None else size for size in inner]), like=output)
    return new
