"""Views that show the heads of folded attention in a torch.fx graph, so that the finder can name them."""

from __future__ import annotations

from torch.fx import GraphModule

from ..cost_model.net import Net
from .folded_heads import Folded, folded_attentions
from .fx_graph import aten, finish, insert_call, node_of_value


def unfold_heads(graph: GraphModule, net: Net) -> int:
    """Behind each folded operand or result [B * H, N, D] of an attention that is not found for want of four axes only: unflattened to
    [B, H, N, D] and flattened again. Exact at every size, as H is the quotient of two sizes that are constant; both are views.

    `net` is the graph as it is. Gives the number of attentions; a second run finds none.
    """
    found = [each for each in folded_attentions(net) if _is_constant(graph, each)]
    for value, heads in dict.fromkeys((value, each.heads) for each in found for value in each.values):
        _unfold(graph, value, heads)
    if found:
        finish(graph)
    return len(found)


def _is_constant(graph: GraphModule, folded: Folded) -> bool:
    return all(isinstance(node_of_value(graph, value).meta["val"].shape[axis], int) for value, axis in folded.known_by)


def _unfold(graph: GraphModule, value: str, heads: int) -> None:
    node = node_of_value(graph, value)
    with graph.graph.inserting_after(node):
        apart = insert_call(graph, aten.unflatten.int, (node, 0, [-1, heads]), like=node)
    with graph.graph.inserting_after(apart):
        joined = insert_call(graph, aten.flatten.using_ints, (apart, 0, 1), like=node)
    node.replace_all_uses_with(joined, delete_user_cb=lambda user: user is not apart and user.op != "output")
