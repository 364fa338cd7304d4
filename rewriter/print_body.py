"""The lines of a printed `forward`: one for each node of a torch.fx graph that does something."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.fx import GraphModule, Node

from ..passes.fx_graph import aten
from .print_names import Variables, identifier, last_uses, shape_text, symbol_names, weight_names, word_of
from .print_ops import FIRST_OF_SEVERAL, literal, written

VIEWS = frozenset(
    [
        "reshape",
        "view",
        "_unsafe_view",
        "permute",
        "transpose",
        "t",
        "expand",
        "unsqueeze",
        "squeeze",
        "slice",
        "select",
        "split",
    ]
)
TURNS = {aten.permute.default: ([1, 0],), aten.t.default: (), aten.transpose.int: (0, 1)}


class Body:
    """Prints the nodes of one graph in order. `texts` holds what each node reads as where it is used."""

    def __init__(self, graph: GraphModule, dynamic: Mapping[str, Mapping[int, str]]) -> None:
        self.nodes = list(graph.graph.nodes)
        self.inputs = [node for node in self.nodes if node.op == "placeholder"]
        self.weights = weight_names(graph)
        self._symbols = symbol_names(graph, dynamic)
        self._variables = Variables([node.name for node in self.inputs])
        self._sizes: dict[str, str] = {}
        self._texts: dict[Node, str] = {}
        self._same = {
            node: _source(node) for node in self.nodes if node.target is operator.getitem and _first_alone(_source(node))
        }
        self._dead = last_uses(self.nodes, self._same)
        tensors = [node.meta["val"] for node in self.nodes if isinstance(node.meta.get("val"), torch.Tensor)]
        self._device = tensors[0].device if tensors else torch.device("cpu")

    def lines(self) -> Iterator[str]:
        """Lines of the body, the return included, with a comment wherever the module that an operator came from changes."""
        path = None
        lines: list[str] = []
        for node in self.nodes:
            line = self._line(node)
            if not line:
                continue
            here = path if node.op == "output" else _module_path(node)
            if here != path and here is not None:
                path = here
                lines += ["", f"# {path or 'the model itself'}"]
            lines.append(line)
        if any("device=device" in line for line in lines):
            yield f"device = {self._device_source()}.device"
        yield from lines[1:] if lines and not lines[0] else lines

    def _line(self, node: Node) -> str:
        if node.op == "placeholder":
            self._texts[node] = node.name
        elif node.op == "get_attr":
            self._texts[node] = f"self.{self.weights[str(node.target)]}"
        elif node.op == "output":
            return f"return {self._results(node.args[0])}"
        elif node in self._same:
            self._texts[node] = self._texts[self._same[node]]
        elif node in self._texts or _is_turned_weight(node):
            return ""
        elif isinstance(node.meta.get("val"), (int, float, torch.SymInt, torch.SymFloat, torch.SymBool)):
            return self._number(node)
        elif isinstance(node.meta.get("val"), (tuple, list)) and not _first_alone(node):
            return self._unpacked(node)
        else:
            call = self._call(node)
            self._release(node)
            name = self._texts[node] = self._variables.take(word_of(node))
            if node in self._dead.get(node, ()):
                self._variables.release(name)
            return f"{name} = {call}{self._comment(node)}"
        return ""

    def _number(self, node: Node) -> str:
        """A size is written where it is used, except for the axes of a tensor: those get a name."""
        call = self._call(node)
        if node.target is not aten.sym_size.int and isinstance(node.target, torch._ops.OpOverload) is False:
            self._texts[node] = call
            return ""
        symbol = str(node.meta["val"])
        if symbol in self._sizes:
            self._texts[node] = self._sizes[symbol]
            return ""
        name = self._texts[node] = self._sizes[symbol] = self._variables.keep(self._symbols.get(symbol, "size"))
        return f"{name} = {call}"

    def _unpacked(self, node: Node) -> str:
        """`a, b, _ = call`: the getitems of a node with several outputs."""
        call, values = self._call(node), node.meta["val"]
        self._release(node)
        pieces: dict[int, Node] = {}
        for user in node.users:
            index = int(user.args[1]) % len(values)  # type: ignore[arg-type]
            if index in pieces:
                self._texts[user] = self._texts[pieces[index]]
            else:
                pieces[index] = user
                self._texts[user] = (
                    self._variables.keep(word_of(node)) if _repeated(node) else self._variables.take(word_of(node))
                )
        names = [self._texts[pieces[index]] if index in pieces else "_" for index in range(len(values))]
        return f"{', '.join(names)}{',' if len(names) == 1 else ''} = {call}"

    def _release(self, node: Node) -> None:
        """Frees the names of what nobody reads after `node`."""
        for dead in self._dead.get(node, ()):
            if dead in self._texts:
                self._variables.release(self._texts[dead])

    def _call(self, node: Node) -> str:
        if node.op == "call_module":
            return f"self.{identifier(str(node.target))}({', '.join(map(self._text, node.args))})"
        if node.op == "call_method":
            inner = ", ".join(map(self._text, node.args[1:]))
            return f"{self._text(node.args[0])}.{node.target}({inner})"
        if _is_linear(node):
            *bias, x, turned = node.args
            weight = turned.args[0]  # type: ignore[union-attr]
            return f"F.linear({', '.join(map(self._text, [x, weight, *bias]))})"
        keywords = {key: value for key, value in node.kwargs.items() if not self._is_default(node, key, value)}
        return written(
            node.target, [self._text(each) for each in node.args],
            {key: "device" if key == "device" else self._text(value) for key, value in keywords.items()},
            plain=node.target not in FIRST_OF_SEVERAL or _first_alone(node),
        )  # fmt: skip

    def _is_default(self, node: Node, key: str, value: Any) -> bool:
        """Keywords that say what is so anyway: strided, not pinned, and for a cast the device that its operand is on."""
        if key == "device" and value == self._device and node.target is aten._to_copy.default:
            return bool(_source(node).meta["val"].device == value)
        return (key, value) in (("layout", torch.strided), ("pin_memory", False), ("device", None))

    def _text(self, value: Any) -> str:
        if isinstance(value, Node):
            return self._texts[value]
        if isinstance(value, tuple):
            return f"({', '.join(map(self._text, value))}{',' if len(value) == 1 else ''})"
        if isinstance(value, list):
            return f"[{', '.join(map(self._text, value))}]"
        return literal(value)

    def _results(self, results: Any) -> str:
        flat = [self._text(each) for each in torch.utils._pytree.tree_leaves(results)]
        return flat[0] if len(flat) == 1 else f"({', '.join(flat)})"

    def _comment(self, node: Node) -> str:
        value = node.meta.get("val")
        value = value[0] if isinstance(value, (tuple, list)) and value else value
        name = node.target._opname if isinstance(node.target, torch._ops.OpOverload) else ""
        if not isinstance(value, torch.Tensor) or name.removesuffix("_with_sizes") in VIEWS or node.target is operator.getitem:
            return ""
        return f"  # {shape_text(value, self._symbols)}"

    def _device_source(self) -> str:
        tensor = next((node for node in self.inputs if isinstance(node.meta.get("val"), torch.Tensor)), None)
        return tensor.name if tensor else "next(self.parameters())"


def _source(node: Node) -> Node:
    return node.args[0]  # type: ignore[return-value]


def _first_alone(node: Any) -> bool:
    """Whether only the first output of an operator is read, whose plain form gives just that one."""
    return (
        isinstance(node, Node)
        and node.target in FIRST_OF_SEVERAL
        and all(user.target is operator.getitem and user.args[1] == 0 for user in node.users)
    )


def _is_turned_weight(node: Node) -> bool:
    """A transposed weight that only linears read: F.linear takes it as it is stored."""
    if node.target not in TURNS or node.args[1:] != TURNS[node.target] or _source(node).op != "get_attr":
        return False
    return all(_is_linear(user) for user in node.users)


def _is_linear(node: Node) -> bool:
    if node.target not in (aten.addmm.default, aten.mm.default) or node.kwargs:
        return False
    weight = node.args[-1]
    plain = isinstance(weight, Node) and weight.target in TURNS and weight.args[1:] == TURNS[weight.target]
    if not plain or _source(weight).op != "get_attr" or weight in node.args[:-1]:  # type: ignore[arg-type]
        return False
    return node.target is aten.mm.default or _source(node).meta["val"].dim() == 1


def _repeated(node: Node) -> bool:
    """Whether one output of a node has several getitems, which then share a name."""
    return len({user.args[1] for user in node.users}) < len(node.users)


def _module_path(node: Node) -> str | None:
    """The module an operator came from, without the leaf layer of torch.nn that it may be; None where that is not known."""
    stack = [(path, kind) for path, kind in node.meta.get("nn_module_stack", {}).values()]
    stack = [(path, kind) for path, kind in stack if not path.startswith("_")]
    while len(stack) > 1 and str(kind := stack[-1][1]).startswith("torch.nn.modules.") and "container" not in str(kind):
        stack.pop()
    return str(stack[-1][0]) if stack else None
