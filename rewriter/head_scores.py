"""What calibration found of the heads of one attention: their budgets, the errors that these leave, and a few heads to look at closer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ..kernels.spectral_attention.causal_prepare import CausalPrepared
from ..kernels.spectral_attention.prepare import SparsePrepared
from ..kernels.spectral_attention.tiling import tiles_for

ROWS = 1024
"""Most tokens of a sampled head: evidence of one takes about a processor second, and grows with the cube."""

Prepared = SparsePrepared | CausalPrepared
Operands = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True, eq=False)
class HeadSample:
    """`query` and `key` [rows, D], float32, of one head on one text. Causal heads give the first `ROWS` tokens, what they see of any longer
    text; others `every` so-many-th token, in tiles that are as much smaller."""

    head: int
    query: torch.Tensor
    key: torch.Tensor
    every: int


@dataclass(frozen=True, eq=False)
class HeadScores:
    """Of each head the `budgets` of exact tiles of `tile` keys, None where it stays dense, and the `errors` that they were fitted by:
    relative, of its output, a mean over calibration texts, and zero where dense. `density` is the share of exact pairs at `length`
    tokens, a mean over heads."""

    budgets: tuple[int | None, ...]
    errors: tuple[float, ...]
    tolerance: float
    tile: int
    length: int
    density: float
    causal: bool
    samples: tuple[HeadSample, ...]

    @property
    def refusal(self) -> str:
        """Why the site stays dense although it was scored, "" where any head does not."""
        if any(budget is not None for budget in self.budgets):
            return ""
        return f"no head keeps its outputs within {self.tolerance:.2f} (relative) with fewer exact tiles"


def budgets_of(made: Prepared, length: int) -> tuple[int | None, ...]:
    """The budget of each head at `length` keys, None where it is all there is."""
    if isinstance(made, CausalPrepared):
        return made.budgets
    tiles = tiles_for(length, made.key_tile or made.tile)
    return tuple(None if budget >= tiles else budget for budget in made.budgets)


def head_scores(made: Prepared, texts: Sequence[Operands], tolerance: float, length: int) -> HeadScores:
    """What `made`, whose budgets were fitted on `texts`, says of its heads; `length` is that of the workload."""
    longest = max(texts, key=lambda text: text[1].shape[2])
    budgets = budgets_of(made, longest[1].shape[2])
    found = HeadScores(
        budgets=budgets,
        errors=tuple(0.0 if budget is None else error for budget, error in zip(budgets, made.errors, strict=True)),
        tolerance=tolerance,
        tile=made.layout.key_tile if isinstance(made, CausalPrepared) else made.key_tile or made.tile,
        length=length,
        density=made.density(length) if isinstance(made, CausalPrepared) else _density(made, length),
        causal=isinstance(made, CausalPrepared),
        samples=(),
    )
    return replace(found, samples=tuple(_sample(longest, head, found.causal) for head in _worth_a_look(made, found, longest)))


def _density(made: SparsePrepared, length: int) -> float:
    tiles = tiles_for(length, made.key_tile or made.tile)
    return sum(min(budget, tiles) for budget in made.budgets) / tiles / made.heads


def _worth_a_look(made: Prepared, found: HeadScores, text: Operands) -> list[int]:
    """The heads of worst, median and best error among those that leave out anything within the rows of a sample."""
    most = found.length
    if isinstance(made, CausalPrepared):
        rows = min(ROWS, text[1].shape[2])
        most = int(made.layout.usable(rows).sum(-1).max())
    heads = [head for head, budget in enumerate(found.budgets) if budget is not None and budget < most]
    heads.sort(key=lambda head: (-found.errors[head], head))
    return list(dict.fromkeys([heads[0], heads[len(heads) // 2], heads[-1]])) if heads else []


def _sample(text: Operands, head: int, causal: bool) -> HeadSample:
    query, key, _ = text
    shared = head // (query.shape[1] // key.shape[1])
    every = 1 if causal else -(-key.shape[2] // ROWS)
    # Copies, so that the operands of all heads need not be held for them.
    queries, keys = (each[0, place, ::every][:ROWS].float().clone() for each, place in ((query, head), (key, shared)))
    return HeadSample(head, queries, keys, every)
