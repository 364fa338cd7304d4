"""Names in printed Python: variables that are used again once their value is dead, symbols for sizes, attributes for weights."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch.fx import GraphModule, Node

from ..passes.fx_graph import attribute
from .print_ops import WORDS

RESERVED = frozenset(
    ["torch", "F", "aten", "nn", "math", "operator", "self", "device", "weight", *dir(builtins), *keyword.kwlist]
)


class Variables:
    """Free names. A name that is given back is used again, so that repeated layers read alike and dead tensors are freed."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken) | RESERVED
        self._live: set[str] = set()

    def take(self, word: str) -> str:
        """`word`, or `word_1`, `word_2`, ... if it is in use."""
        name, count = word, 0
        while name in self._taken or name in self._live:
            count += 1
            name = f"{word}_{count}"
        self._live.add(name)
        return name

    def keep(self, word: str) -> str:
        """A name that is never used again."""
        name = self.take(identifier(word))
        self._taken.add(name)
        return name

    def release(self, name: str) -> None:
        """Says that the value of `name` is not read any more."""
        self._live.discard(name)


def identifier(text: str) -> str:
    """`text` as a Python name."""
    name = re.sub(r"[^0-9a-zA-Z_]", "_", text)
    return f"_{name}" if not name or name[0].isdigit() else name


def word_of(node: Node) -> str:
    """The word for a node's result: "linear", "softmax", "add"."""
    target = node.target
    name = target._opname if isinstance(target, torch._ops.OpOverload) else str(getattr(target, "__name__", node.name))
    name = name.strip("_")
    return identifier(WORDS.get(name, name))


def last_uses(nodes: Sequence[Node], aliases: Mapping[Node, Node]) -> dict[Node, list[Node]]:
    """For each node, the nodes whose values nobody reads after it. `aliases` maps a node to the one whose variable it shares."""
    last: dict[Node, Node] = {}
    for node in nodes:
        last.setdefault(aliases.get(node, node), node)
        for source in node.all_input_nodes:
            last[aliases.get(source, source)] = node
    found: dict[Node, list[Node]] = {}
    for source, node in last.items():
        found.setdefault(node, []).append(source)
    return found


def symbol_names(graph: GraphModule, dynamic: Mapping[str, Mapping[int, str]]) -> dict[str, str]:
    """The word for each symbolic size: the name that `dynamic` gives its input axis, else "<input>_<axis>"."""
    names: dict[str, str] = {}
    by_word = {identifier(name): axes for name, axes in dynamic.items()}
    for node in graph.graph.nodes:
        value = node.meta.get("val")
        for axis, size in enumerate(value.shape if node.op == "placeholder" and isinstance(value, torch.Tensor) else ()):
            text = str(size)
            if not text.isdigit() and re.fullmatch(r"\w+", text):
                name = by_word.get(node.name, {}).get(axis, f"{node.name}_{axis}")
                names.setdefault(text, identifier(name.replace(" + ", "_plus_")))
    return names


def shape_text(value: torch.Tensor, symbols: Mapping[str, str]) -> str:
    """`[batch, sequence, 384]`."""
    sizes = (re.sub(r"\b[a-z]+\d+\b", lambda found: symbols.get(found[0], found[0]), str(size)) for size in value.shape)
    return f"[{', '.join(sizes)}]"


def weight_names(graph: GraphModule) -> dict[str, str]:
    """The attribute for each get_attr target, in order of use. Two targets that hold the same tensor (tied weights) share one."""
    names: dict[str, str] = {}
    seen: dict[int, str] = {}
    for node in graph.graph.nodes:
        if node.op == "get_attr" and node.target not in names:
            name = identifier(str(node.target).replace(".", "_"))
            while name in seen.values() or hasattr(torch.nn.Module, name):
                name += "_"
            names[str(node.target)] = seen.setdefault(id(attribute(graph, str(node.target))), name)
    return names
