"""Gradients inside a traced model, block by block: only what crosses the edges of blocks is kept, and one block at a time is run again
with gradients. One block is plain backpropagation; the gradients are the same however many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.fx import GraphModule, Interpreter, Node

Seed = Callable[[int, tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]]
"""(number of the sample, the model's outputs on it) -> the gradient of what is differentiated with respect to each output."""


@dataclass(frozen=True, eq=False)
class Gradients:
    """What one block found, a list over samples each, by name: `values` of tensors that it writes or reads, and `slopes`, the gradients, of
    those that it writes; parameters have `parameters`, each gradient whole once it is (one that several blocks read comes
    with the first of them in the graph, the last to be run)."""

    values: dict[str, list[torch.Tensor]]
    slopes: dict[str, list[torch.Tensor]]
    parameters: dict[str, list[torch.Tensor]]


def outputs_of(graph: GraphModule) -> tuple[Node, ...]:
    """The nodes that a traced model returns, flat."""
    found: list[Node] = []
    torch.fx.node.map_arg(next(node for node in graph.graph.nodes if node.op == "output").args, found.append)
    return tuple(found)


def numbers(node: Node) -> int:
    """Elements of the result of a node at the sizes of its trace, 0 for what is no tensor."""
    found = node.meta.get("val")
    total = 0
    for each in found if isinstance(found, tuple | list) else [found]:
        if isinstance(each, torch.Tensor):
            count = 1
            for size in each.shape:
                hint = getattr(getattr(size, "node", None), "hint", None) if not isinstance(size, int) else size
                count *= int(hint) if hint is not None else 1
            total += count
    return total


def blocks_of(graph: GraphModule, count: int) -> list[list[Node]]:
    """The computing nodes in order, in `count` pieces or fewer of about equal results, cut where few numbers cross."""
    nodes = [node for node in graph.graph.nodes if node.op not in ("placeholder", "get_attr", "output")]
    if count <= 1 or len(nodes) <= 1:
        return [nodes]
    last = {each: place for place, node in enumerate(nodes) for each in node.all_input_nodes}
    last.update(dict.fromkeys(outputs_of(graph), len(nodes)))
    sizes = [numbers(node) for node in nodes]
    crossing = np.zeros(len(nodes) + 1)
    for place, node in enumerate(nodes):
        # A tuple has no slope of its own; its parts, read at once, have.
        crossing[place : last.get(node, place)] += np.inf if isinstance(node.meta.get("val"), tuple | list) else sizes[place]
    done, share = np.cumsum(sizes), sum(sizes) / count
    cuts = [0]
    for number in range(1, count):
        near = [at for at in range(cuts[-1], len(nodes) - 1) if abs(done[at] - number * share) <= share / 2]
        best = min(near, key=lambda at: (crossing[at], at), default=None)
        if best is not None and np.isfinite(crossing[best]):
            cuts.append(best + 1)
    cuts.append(len(nodes))
    return [nodes[start:stop] for start, stop in pairwise(cuts) if stop > start]


def block_gradients(
    graph: GraphModule,
    samples: Sequence[Sequence[torch.Tensor]],
    seed: Seed,
    watched: Sequence[str],
    *,
    read: Sequence[str] | None = None,
    differentiated: int | None = None,
    blocks: int = 1,
    parameters: bool = False,
) -> Iterator[tuple[list[str], Gradients]]:
    """(names of its nodes, `Gradients`) of each block, the last first. `samples` are inputs in the order of the placeholders; `watched`
    names float results of nodes whose slopes are wanted, "" never, and `read` those whose values are, None for the same. Samples behind the
    first `differentiated` ones (None: all) have values alone. Nothing of the graph is changed, and gradients are of `seed` times the
    outputs."""
    every = len(samples) if differentiated is None else differentiated
    walk = _Walk(
        graph,
        blocks_of(graph, blocks),
        samples,
        frozenset(watched),
        frozenset(watched if read is None else read),
        every,
        parameters,
    )
    walk.forward()
    for number in reversed(range(len(walk.pieces))):
        yield [node.name for node in walk.pieces[number]], walk.backward(number, seed)


class _Walk:
    """Of each sample: `kept` holds the values that cross from block to block, `slopes` the gradients with respect to them on the way back,
    and `partial` gradients of parameters that an earlier block reads too."""

    def __init__(
        self,
        graph: GraphModule,
        pieces: list[list[Node]],
        samples: Sequence[Sequence[torch.Tensor]],
        watched: frozenset[str],
        read: frozenset[str],
        differentiated: int,
        parameters: bool,
    ) -> None:
        self.interpreter = Interpreter(graph, garbage_collect_values=False)
        self.pieces, self.watched, self.wanted, self.parameters = pieces, watched, read, parameters
        self.differentiated = differentiated
        self.outputs = outputs_of(graph)
        inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
        self.kept: list[dict[Node, Any]] = [dict(zip(inputs, sample, strict=True)) for sample in samples]
        self.slopes: list[dict[Node, torch.Tensor]] = [{} for _ in samples]
        self.seeded: set[int] = set()
        self.partial: list[dict[str, torch.Tensor]] = [{} for _ in samples]
        self.read = [dict.fromkeys(each for node in piece for each in node.all_input_nodes) for piece in pieces]
        self.first = {
            str(each.target): number
            for number in reversed(range(len(pieces)))
            for each in self.read[number]
            if each.op == "get_attr"
        }

    def forward(self) -> None:
        """Keeps what crosses from block to block. The last block is not run: its way back runs it."""
        for number, piece in enumerate(self.pieces[:-1]):
            later = {each for read in self.read[number + 1 :] for each in read} | set(self.outputs)
            for kept in self.kept:
                with torch.no_grad():
                    found = self._compute(piece, dict(kept), {})
                kept.update({node: found[node] for node in piece if node in later})

    def backward(self, number: int, seed: Seed) -> Gradients:
        """One block of every sample, from the slopes of what leaves it to those of what it reads."""
        piece = self.pieces[number]
        names = [node for node in piece if node.name in self.watched]
        values = [node for node in dict.fromkeys((*self.read[number], *piece)) if node.name in self.wanted]
        found = Gradients({node.name: [] for node in values}, {node.name: [] for node in names}, {})
        for sample, kept in enumerate(self.kept):
            if sample >= self.differentiated:
                with torch.no_grad():
                    known = self._compute(piece, dict(kept), {})
                self._keep(values, known, found)
                for node in piece:
                    kept.pop(node, None)
                continue
            with torch.enable_grad():
                # An integer has no gradient.
                read = {n: kept[n].detach().requires_grad_() for n in self.read[number] if _differentiable(kept.get(n))}
                weights = self._weights(number)
                known = self._compute(piece, {**kept, **read}, weights)
                wanted = {node.name: known[node] for node in names}
                asked = [*read.values(), *wanted.values(), *weights.values()]
                slopes = _slopes(self._leaving(sample, piece, known, seed), asked)
            for node, slope in zip(read, slopes, strict=False):
                _add(self.slopes[sample], node, slope)
            self._keep(values, known, found)
            for name, slope in zip(wanted, slopes[len(read) :], strict=False):
                found.slopes[name].append(slope)
            for name, slope in zip(weights, slopes[len(read) + len(wanted) :], strict=True):
                _add(self.partial[sample], name, slope)
                if self.first[name] == number:
                    found.parameters.setdefault(name, []).append(self.partial[sample].pop(name))
            for node in piece:
                self.slopes[sample].pop(node, None)
                kept.pop(node, None)
        return found

    def _keep(self, nodes: Sequence[Node], known: Mapping[Node, Any], found: Gradients) -> None:
        for node in nodes:
            found.values[node.name].append(self._value(node, known).detach())

    def _leaving(
        self, sample: int, piece: list[Node], known: Mapping[Node, Any], seed: Seed
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The values that leave the block, each with its slope: from later blocks, and from the outputs themselves."""
        if sample not in self.seeded and any(node in known for node in self.outputs):
            self.seeded.add(sample)
            results = tuple(self._value(node, known).detach() for node in self.outputs)
            with torch.no_grad():
                for node, slope in zip(self.outputs, seed(sample, results), strict=True):
                    _add(self.slopes[sample], node, slope)
        return [(known[node], slope) for node, slope in self.slopes[sample].items() if node in set(piece)]

    def _weights(self, number: int) -> dict[str, torch.Tensor]:
        if not self.parameters:
            return {}
        read = {str(each.target): self._value(each, {}) for each in self.read[number] if each.op == "get_attr"}
        return {name: value.detach().requires_grad_() for name, value in read.items() if _differentiable(value)}

    def _value(self, node: Node, known: Mapping[Node, Any]) -> Any:
        if node in known:
            return known[node]
        found = self.interpreter.fetch_attr(str(node.target))
        return found.detach() if isinstance(found, torch.Tensor) else found

    def _compute(self, piece: list[Node], known: dict[Node, Any], weights: Mapping[str, torch.Tensor]) -> dict[Node, Any]:
        """The results of a block, added to those known. A watched value that no gradient reaches starts one of its own."""

        def given(node: Node) -> Any:
            return (
                weights.get(str(node.target))
                if node.op == "get_attr" and weights.get(str(node.target)) is not None
                else self._value(node, known)
            )

        for node in piece:
            arguments, named = torch.fx.node.map_arg(node.args, given), torch.fx.node.map_arg(node.kwargs, given)
            result = getattr(self.interpreter, node.op)(node.target, arguments, named)
            if node.name in self.watched and torch.is_grad_enabled() and not result.requires_grad:
                result = result.detach().requires_grad_()
            known[node] = result
        return known


def _differentiable(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _slopes(heads: Sequence[tuple[torch.Tensor, torch.Tensor]], asked: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Gradients with respect to `asked`; zeros for what nothing that leaves depends on."""
    heads = [(value, slope) for value, slope in heads if value.requires_grad]
    if not heads or not asked:
        return [torch.zeros_like(each) for each in asked]
    values, slopes = zip(*heads, strict=True)
    found = torch.autograd.grad(values, asked, slopes, allow_unused=True)
    return [torch.zeros_like(each) if slope is None else slope for each, slope in zip(asked, found, strict=True)]


def _add(sums: dict[Any, torch.Tensor], key: Any, slope: torch.Tensor) -> None:
    sums[key] = sums[key] + slope if key in sums else slope
