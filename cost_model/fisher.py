"""Fisher information of a traced model by backpropagation: its trace, its diagonal, and what small changes inside do to the outputs.

I_F = E[(d log p / d theta)(d log p / d theta)^T], with outputs drawn from the model's own distribution, so that no label is needed. Where
that is a Gaussian around the outputs, change^T I_F change is their squared error; where it is a softmax, twice the divergence KL(original
|| changed), both to second order. With labels, squared gradients of their loss take its place (the empirical Fisher).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import GraphModule

from .block_gradients import Gradients, Seed, block_gradients, blocks_of, numbers

Loss = Callable[[int, tuple[torch.Tensor, ...]], torch.Tensor]


@dataclass(eq=False)
class OwnOutputs:
    """A `Seed` that needs no labels: d log p / d outputs for outputs drawn from the model's own distribution, the same on every run.

    "gaussian": p = N(outputs, 1), so that the gradients are normal; "softmax": a class drawn over the last axis. `ignored` are numbers of
    outputs that do not count, as those of integers never do; of outputs [B, L, D] those rows count that `tokens` says, [B, L] for each
    sample, all of them where it is None or has another shape. `squares` is the sum of squares of what counts and `rows` how many vectors
    that is, over the samples seen: with `squares` a gaussian score becomes a relative squared error, with `rows` a softmax one
    twice the divergence of a row [nats]."""

    distribution: str = "gaussian"
    random: int = 0
    ignored: frozenset[int] = frozenset()
    tokens: Sequence[torch.Tensor | None] = ()
    squares: float = 0.0
    rows: int = 0
    _seen: set[int] = field(default_factory=set)

    def __call__(self, sample: int, outputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        generator = torch.Generator().manual_seed(self.random * 1_000_003 + sample)
        found = []
        for number, output in enumerate(outputs):
            if number in self.ignored or not output.is_floating_point():
                found.append(torch.zeros_like(output))
                continue
            counted = self._counted(sample, output)
            if sample not in self._seen:
                lengths = torch.linalg.vector_norm(torch.atleast_1d(output), dim=-1, dtype=torch.float64)
                lengths = lengths if counted is None else lengths[counted]
                self.squares += float(lengths.square().sum())
                self.rows += lengths.numel()
            if self.distribution == "gaussian":
                slope = torch.randn(output.shape, generator=generator).to(output.dtype)
            else:
                likely = torch.softmax(output.float(), -1).reshape(-1, output.shape[-1])
                drawn = torch.multinomial(likely, 1, generator=generator)
                slope = (-likely).scatter_add_(1, drawn, torch.ones_like(drawn, dtype=likely.dtype)).reshape(output.shape)
            if counted is not None:
                slope[~counted] = 0
            found.append(slope)
        self._seen.add(sample)
        return tuple(found)

    def _counted(self, sample: int, output: torch.Tensor) -> torch.Tensor | None:
        """Which rows of an output count, None for all."""
        tokens = self.tokens[sample] if sample < len(self.tokens) else None
        return tokens if tokens is not None and output.dim() == 3 and output.shape[:2] == tokens.shape else None


def of_loss(loss: Loss) -> Seed:
    """A `Seed` from labels: the gradient of `loss` (number of the sample, outputs -> a scalar, -log p of the labels)."""

    def seed(sample: int, outputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        with torch.enable_grad():
            leaves = tuple(o.detach().requires_grad_() if o.is_floating_point() else o for o in outputs)
            asked = [leaf for leaf in leaves if leaf.requires_grad]
            slopes = iter(torch.autograd.grad(loss(sample, leaves), asked, allow_unused=True))
        given = [next(slopes) if leaf.requires_grad else None for leaf in leaves]
        return tuple(torch.zeros_like(leaf) if slope is None else slope for leaf, slope in zip(leaves, given, strict=True))

    return seed


def row_changes(slope: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """gradient x change of each row of one value, both [..., N]: float64 [rows]. Of values that change together they add up."""
    return (slope.double() * change.double()).reshape(-1, slope.shape[-1]).sum(-1)


def squared_change(slope: torch.Tensor, change: torch.Tensor) -> float:
    """(gradient x change)^2 of one value on one sample, both [..., N]: what the change alone adds to the squared error of the outputs.

    Summed over N before it is squared, since a rounded weight moves the numbers of a row together; rows are told apart, which takes out
    the noise of the one draw that their gradients share."""
    return float(row_changes(slope, change).square().sum())


def change_gradients(
    graph: GraphModule,
    samples: Sequence[Sequence[Any]],
    seed: Seed,
    watched: Sequence[str],
    *,
    read: Sequence[str] | None = None,
    differentiated: int | None = None,
    memory: float | None = None,
) -> Iterator[tuple[list[str], Gradients]]:
    """`block_gradients` of the named values in as many blocks as keep what a pass holds within `memory` [bytes], one where it is None or
    enough: with less memory it runs each block twice."""
    blocks = blocks_within(graph, samples, memory)
    return block_gradients(graph, samples, seed, watched, read=read, differentiated=differentiated, blocks=blocks)


def blocks_within(graph: GraphModule, samples: Sequence[Sequence[Any]], memory: float | None) -> int:
    """How many blocks a pass over `samples` needs so that the results of one, for all samples, fit in `memory` bytes: values and slopes,
    four bytes a number, at the sizes of these samples rather than of the trace."""
    if memory is None:
        return 1
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
    traced = max(1, sum(numbers(node) for node in inputs))
    given = sum(sum(each.numel() for each in sample) for sample in samples)
    results = sum(numbers(node) for node in blocks_of(graph, 1)[0])
    return max(1, -(-int(2 * 4 * results * given / traced) // max(1, int(memory))))


@dataclass(frozen=True, eq=False)
class Fisher:
    """tr(I_F) of a model as a mean over samples, by parameter, and where it was asked for the diagonal itself, float32 as each weight."""

    parameters: dict[str, float]
    diagonal: dict[str, torch.Tensor]

    @property
    def trace(self) -> float:
        """tr(I_F): in nats per sample, per squared unit of the parameters."""
        return sum(self.parameters.values())


def fisher(
    graph: GraphModule,
    samples: Sequence[Sequence[Any]],
    seed: Seed,
    *,
    memory: float | None = None,
    diagonal: bool = False,
) -> Fisher:
    """The Fisher information of every float parameter and buffer, from one backward over each sample: the mean of squared gradients.

    Samples of a batch need not be told apart under `OwnOutputs`: what is drawn for them is independent and of mean zero, so that the square
    of their sum is the sum of their squares but for noise. With labels (`of_loss`) give one at a time."""
    parameters: dict[str, float] = {}
    kept: dict[str, torch.Tensor] = {}
    blocks = blocks_within(graph, samples, memory)
    for _, found in block_gradients(graph, samples, seed, (), blocks=blocks, parameters=True):
        for name, slopes in found.parameters.items():
            parameters[name] = sum(float(slope.double().square().sum()) for slope in slopes) / len(samples)
            if diagonal:
                kept[name] = torch.stack([slope.float().square() for slope in slopes]).mean(0)
    return Fisher(parameters, kept)


def weight_error(weight: torch.Tensor, rounded: torch.Tensor) -> float:
    """||W - Wq||^2 / ||W||^2, what is left to go by without data: the relative squared error of a layer's output for white inputs."""
    scale = float(weight.double().square().sum())
    return float((weight.double() - rounded.double()).square().sum()) / scale if scale else 0.0
