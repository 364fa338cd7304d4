"""Cuts some ops of a torch.fx graph out into a module of their own, so that a site can be timed alone before and after a pass."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from ..cost_model.errors import InputError
from ..cost_model.net import Net
from .fx_graph import attribute, fake_of, is_constant, is_pure, refresh_value


def extract(graph: GraphModule, net: Net, op_ids: Collection[str]) -> GraphModule:
    """A module made of exactly those nodes, the constants they read and, for nodes with several outputs, their getitems.

    Its inputs are the computed values that cross in, its outputs (a tuple) those that cross out, both in graph order and under their old
    names, so that the same sites apply to it. Symbolic sizes become the sizes in `net`. Weights are shared with `graph`, not copied.
    Raises InputError for an unknown op, or for a size that depends on data.
    """
    inside = _closed(graph, op_ids)
    small = Graph()
    copies: dict[Node, Node] = {}
    mode = FakeTensorMode()
    for source in _crossing_in(graph, inside):
        copies[source] = small.placeholder(source.name)
        copies[source].meta["val"] = _fake_input(source, net, mode)
    roots: dict[str, Any] = {}
    for node in graph.graph.nodes:
        if node in inside or (node not in copies and _goes_along(node) and not _is_number(node)):
            copies[node] = _copied(small, node, copies, net)
            if node.op in ("get_attr", "call_module"):
                roots[str(node.target)] = attribute(graph, str(node.target))
    small.output(tuple(copies[node] for node in _crossing_out(graph, inside)))
    small.eliminate_dead_code()
    module = GraphModule(roots, small)
    _refresh(module, mode)
    module.graph.lint()
    return module


def _closed(graph: GraphModule, op_ids: Collection[str]) -> dict[Node, None]:
    """The nodes of those names in graph order, with the getitems of what has several outputs, without symbolic sizes."""
    names = {node.name for node in graph.graph.nodes}
    unknown = next((name for name in op_ids if name not in names), None)
    if unknown is not None:
        raise InputError(f"The graph has no op {unknown!r}, so that it cannot be cut out; view this graph again.")
    wanted = set(op_ids)
    inside: dict[Node, None] = {}
    for node in graph.graph.nodes:
        piece = node.target is operator.getitem and node.args[0] in inside
        alone = node.target is operator.getitem and node.args[0] not in inside
        if (node.name in wanted and not alone and not _is_number(node)) or piece:
            inside[node] = None
    return inside


def _crossing_in(graph: GraphModule, inside: Collection[Node]) -> Iterator[Node]:
    read = {source for node in inside for source in node.all_input_nodes}
    for node in graph.graph.nodes:
        if node in read and node not in inside and not _is_number(node) and not _goes_along(node):
            yield node


def _crossing_out(graph: GraphModule, inside: Collection[Node]) -> list[Node]:
    tensors = [node for node in inside if isinstance(fake_of(graph, node), torch.Tensor) and node.op != "get_attr"]
    outside = [node for node in tensors if any(user not in inside for user in node.users)]
    if not tensors:
        raise InputError("Those ops compute no tensor, so that there is nothing to cut out.")
    return outside or tensors[-1:]


def _copied(small: Graph, node: Node, copies: dict[Node, Node], net: Net) -> Node:
    def translate(source: Node) -> Any:
        return _number(source, net) if _is_number(source) else copies[source]

    copy = small.node_copy(node, translate)
    copy.name = node.name
    return copy


def _is_number(node: Node) -> bool:
    return isinstance(node.meta.get("val"), (int, float, torch.SymInt, torch.SymFloat, torch.SymBool))


def _goes_along(node: Node) -> bool:
    """Whether a node is a weight, a view or cast of one, or a fill of one element: it goes along instead of becoming an input."""
    if is_constant(node):
        return True
    value = node.meta.get("val")
    return (
        node.op == "call_function" and is_pure(node) and not node.all_input_nodes and getattr(value, "numel", lambda: 2)() == 1
    )


def _number(node: Node, net: Net) -> Any:
    """The number that a symbolic node has under the shapes of `net`."""
    if isinstance(node.meta["val"], (int, float)):
        return node.meta["val"]
    if node.target is torch.ops.aten.sym_size.int:
        source, axis = node.args
        shape = net.shape(source.name) if isinstance(source, Node) else None
        if shape is None:
            raise InputError(
                f"The size {node.name!r} is not known from the shapes of the inputs, so that its op cannot be cut out."
            )
        return shape[axis]  # type: ignore[index]
    if node.op != "call_function" or any(not _is_number(source) for source in node.all_input_nodes):
        raise InputError(f"The size {node.name!r} depends on the data, so that its op cannot be cut out.")
    arguments = map_arg(node.args, lambda source: _number(source, net))
    return node.target(*arguments, **node.kwargs)  # type: ignore[operator]


def _fake_input(source: Node, net: Net, mode: FakeTensorMode) -> torch.Tensor:
    value, shape = source.meta["val"], net.shape(source.name)
    if not isinstance(value, torch.Tensor) or shape is None:
        raise InputError(
            f"The value {source.name!r} that the ops read is no tensor of known shape, so that they cannot be cut out."
        )
    with mode:
        return torch.empty(shape, dtype=value.dtype, device=value.device)


def _refresh(module: GraphModule, mode: FakeTensorMode) -> None:
    for node in module.graph.nodes:
        if node.op == "get_attr":
            node.meta["val"] = mode.from_tensor(attribute(module, str(node.target)), static_shapes=True)
        elif node.op == "call_function":
            refresh_value(module, node)
