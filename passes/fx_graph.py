"""Small edits of a torch.fx graph that keep `meta` fresh: every new node gets a fake value and its module path at once.

A node without `meta["val"]` makes later filters skip it in silence (pytorch#187945), hence nothing here creates one.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

aten = torch.ops.aten
CONSTANT_OPS = 16
"""Most nodes between a weight and its use; it bounds the search for constants, and exporters write two or three."""

SYMBOLIC = (torch.sym_max, torch.sym_min, torch.sym_int, torch.sym_float, torch.sym_not, torch.sym_ite)


def is_pure(node: Node) -> bool:
    """Whether two such nodes with equal arguments give equal results: no mutation, no random numbers, no side effect."""
    if node.op == "get_attr":
        return True
    if node.op != "call_function":
        return False
    if not isinstance(node.target, torch._ops.OpOverload):
        return getattr(node.target, "__module__", "") in ("_operator", "math") or node.target in SYMBOLIC
    tags = node.target.tags
    return not (node.target._schema.is_mutable or torch.Tag.nondeterministic_seeded in tags or node.is_impure())


def is_equal(left: Any, right: Any) -> bool:
    """Whether two sizes (ints or symbolic ints) are equal for every input; False when that is not known."""
    return bool(statically_known_true(left == right))


def same_shape(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two fake tensors have the same shape for every input."""
    return left.dim() == right.dim() and all(is_equal(a, b) for a, b in zip(left.shape, right.shape, strict=True))


def is_constant(node: Node) -> bool:
    """Whether a node is a weight, or pure ops on weights alone: a transposed, cast or sliced one."""
    waiting, seen = [node], {node}
    while waiting:
        each = waiting.pop()
        if each.op == "get_attr":
            continue
        if each.op != "call_function" or not is_pure(each) or not each.all_input_nodes or len(seen) > CONSTANT_OPS:
            return False
        waiting += [source for source in each.all_input_nodes if source not in seen]
        seen.update(each.all_input_nodes)
    return True


def constant_of(graph: GraphModule, node: Any) -> torch.Tensor | None:
    """The tensor behind a constant node (see `is_constant`); None for what is computed."""
    if not isinstance(node, Node) or not is_constant(node):
        return None
    if node.op == "get_attr":
        found = attribute(graph, str(node.target))
        return found.detach() if isinstance(found, torch.Tensor) else None
    known = {source: constant_of(graph, source) for source in node.all_input_nodes}
    arguments, keywords = torch.fx.node.map_arg((node.args, dict(node.kwargs)), known.__getitem__)
    with torch.no_grad():
        found = node.target(*arguments, **keywords)  # type: ignore[operator]
    return found if isinstance(found, torch.Tensor) else None


def attribute(graph: GraphModule, target: str) -> Any:
    """The object behind a dotted attribute name."""
    found: Any = graph
    for part in target.split("."):
        found = getattr(found, part)
    return found


def fake_of(graph: GraphModule, node: Node) -> Any:
    """The fake value of a node, made from the real tensor for an attribute that has none yet."""
    if "val" not in node.meta and node.op == "get_attr":
        node.meta["val"] = fake_mode_of(graph).from_tensor(attribute(graph, str(node.target)), static_shapes=True)
    return node.meta["val"]


def fake_mode_of(graph: GraphModule) -> Any:
    """The FakeTensorMode in which the graph's values live; a new one where no node has a tensor value."""
    for node in graph.graph.nodes:
        mode = getattr(node.meta.get("val"), "fake_mode", None)
        if mode is not None:
            return mode
    return torch._subclasses.fake_tensor.FakeTensorMode()


def insert_call(
    graph: GraphModule, target: Any, arguments: tuple, keywords: dict[str, Any] | None = None, *, like: Node
) -> Node:
    """A new call_function node at the graph's insertion point, with its fake value and the module path of `like`."""
    node = graph.graph.call_function(target, arguments, keywords or {})
    copy_origin(node, like)
    refresh_value(graph, node)
    return node


def copy_origin(node: Node, like: Node) -> None:
    """Gives `node` the module path and source line of the node that it replaces."""
    for key in ("nn_module_stack", "stack_trace"):
        if key in like.meta:
            node.meta[key] = like.meta[key]


def refresh_value(graph: GraphModule, node: Node) -> None:
    """Computes `meta["val"]` of a call_function node from its operands' values, symbolic shapes kept."""
    fakes = {source: fake_of(graph, source) for source in node.all_input_nodes}
    arguments, keywords = torch.fx.node.map_arg((node.args, dict(node.kwargs)), fakes.__getitem__)
    with fake_mode_of(graph), torch.no_grad():
        node.meta["val"] = node.target(*arguments, **keywords)  # type: ignore[operator]


def free_name(graph: GraphModule, name: str) -> str:
    """`name` as an identifier, or one made from it if the root of the graph has something under it."""
    base = "".join(c if c.isalnum() else "_" for c in name)
    target, count = base, 0
    while hasattr(graph, target):
        count += 1
        target = f"{base}_{count}"
    return target


def add_constant(graph: GraphModule, name: str, tensor: torch.Tensor, like: Node) -> Node:
    """Registers `tensor` as a parameter of the root under a free name like `name`; its get_attr node stands at the insertion point."""
    target = free_name(graph, name)
    graph.register_parameter(target, torch.nn.Parameter(tensor.detach().contiguous(), requires_grad=False))
    node = graph.graph.get_attr(target)
    copy_origin(node, like)
    fake_of(graph, node)
    return node


def nodes_by_name(graph: GraphModule) -> dict[str, Node]:
    """Every node under its name: the op ids of a `Net`."""
    return {node.name: node for node in graph.graph.nodes}


def node_of_value(graph: GraphModule, value: str) -> Node:
    """The node behind a value name of the `Net`: "name", or "name.i" for the i-th output of a node with several.

    Raises KeyError when the graph has no such node.
    """
    nodes = nodes_by_name(graph)
    if value in nodes:
        return nodes[value]
    name, _, position = value.rpartition(".")
    if name not in nodes or not position.isdigit():
        raise KeyError(value)
    source = nodes[name]
    if not isinstance(source.meta.get("val"), (tuple, list)):
        return source
    for user in source.users:
        if user.target is operator.getitem and user.args[1] == int(position):
            return user
    with graph.graph.inserting_after(source):
        return insert_call(graph, operator.getitem, (source, int(position)), like=source)


def take_over(new: Node, old: Node) -> None:
    """Puts `new` where `old` is: its readers and its name, so that sites that name the value still find it. `old` is erased."""
    old.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
    name = old.name
    old.graph.erase_node(old)
    new.name = name


def relax_views(graph: GraphModule) -> int:
    """Turns each `view` into `reshape`, which copies only where a view cannot be; gives the number turned.

    Equal values with other strides break `view` ("Cannot view a tensor", pytorch#136543), and rewriting changes strides.
    """
    strict = [node for node in graph.graph.nodes if node.target in (aten.view.default, aten._unsafe_view.default)]
    for node in strict:
        node.target = aten.reshape.default
    return len(strict)


def finish(graph: GraphModule) -> None:
    """Relaxes views, removes dead nodes and the weights that nothing reads any more, then lints and recompiles."""
    relax_views(graph)
    graph.graph.eliminate_dead_code()
    drop_unused_attributes(graph)
    graph.graph.lint()
    graph.recompile()


def drop_unused_attributes(graph: GraphModule) -> None:
    """Deletes parameters, buffers and submodules that no node names."""
    graph.graph.owning_module = graph
    read = {str(node.target) for node in graph.graph.nodes if node.op in ("get_attr", "call_module")}
    inner = tuple(f"{name}." for name in read)
    for kind in (graph.named_parameters, graph.named_buffers):
        for name, _ in list(kind(remove_duplicate=False)):
            if name not in read and not name.startswith(inner):
                owner, _, leaf = name.rpartition(".")
                delattr(attribute(graph, owner) if owner else graph, leaf)
    graph.delete_all_unused_submodules()
