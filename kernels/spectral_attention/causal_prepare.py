"""What calibration fixes of a causal spectral attention before it runs: the budget of each head, by the tolerance rule.

A rewriter that finds a causal self-attention (as many queries as keys, positions already in q and k, no window, no sink, no softcap)
captures q before its scale, k and v of each calibration text and calls `prepare(texts, scale=...,
run=causal_torch_module.run)`. All budgets None: the site stays dense. Otherwise `causal_torch_module.build` makes the torch module, and
`causal_onnx.causal_nodes` the ONNX nodes, that stand in its place for every batch and length; k and v come with the key heads they have
before they are repeated. Tokens behind a text's end change no output before them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from ...cost_model.errors import InputError
from .causal import LAYOUT, Layout, causal_spectral_attention
from .prepare import relative_errors

GRID = (2, 4, 8, 12, 16, 24, 32, 48, 64)
"""Budgets tried. With fewer than two, the first tile and the one before the queries are not both exact; with 64, a head takes as long as a
dense one at 4,096 tokens (processor seconds in onnxruntime, nine heads: 58 ms with 2, 97 with 24, 153 with 48, 209 with 64, 197 dense)."""
TOLERANCE = 0.10
"""Mean relative error of a head's output over calibration texts. On SmolLM2-135M it leaves 0.15 of the pairs exact at 4,096 tokens."""

Operands = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Query [1, H, N, D], key [1, Hkv, N, D] and value [1, Hkv, N, Dv] of one text."""


@dataclass(frozen=True)
class CausalPrepared:
    """The `budgets` of exact tiles, one a query head and None where it stays dense, the logit's `scale`, the `layout`, and the relative
    `errors` of each head that the budgets were chosen by, zero where dense. It serves every length; fewer than `dense_below` tokens are
    dense attention where a runtime can choose. `on_cuda`: torch runs it by Triton kernels."""

    budgets: tuple[int | None, ...]
    scale: float
    layout: Layout = LAYOUT
    errors: tuple[float, ...] = ()
    dense_below: int = 0
    on_cuda: bool = False

    @property
    def groups(self) -> dict[int | None, tuple[int, ...]]:
        """The heads of each budget, in the order of budgets, dense ones last."""
        known = sorted({budget for budget in self.budgets if budget is not None})
        budgets = [*known, *([None] if None in self.budgets else [])]
        return {each: tuple(head for head, budget in enumerate(self.budgets) if budget == each) for each in budgets}

    def density(self, length: int) -> float:
        """Mean over heads of the exact pairs of a query and a key, over all `length` (`length` + 1) / 2, at that length."""
        size, count = self.layout.query_tile, self.layout.key_tile
        sizes = [min(size, length - start) for start in range(0, length, size)]
        own = sum(rows * (rows + 1) / 2 for rows in sizes)
        total = 0.0
        for budget in self.budgets:
            tiles = [place * (size // count) for place in range(len(sizes))]
            taken = tiles if budget is None else [min(budget, each) for each in tiles]
            total += own + sum(rows * each * count for rows, each in zip(sizes, taken, strict=True))
        return total / len(self.budgets) / (length * (length + 1) / 2)


def prepare(
    texts: Sequence[Operands],
    *,
    scale: float,
    tolerance: float = TOLERANCE,
    layout: Layout = LAYOUT,
    grid: Sequence[int] = GRID,
    run: Callable[[CausalPrepared, Operands], torch.Tensor] | None = None,
) -> CausalPrepared:
    """For each head the smallest budget of `grid` whose relative output error, averaged over `texts`, is at most `tolerance`, else dense.

    By bisection, as the error falls with the budget: four runs of the operator for nine budgets. `run` computes it; by default the
    reference. The rule looks at every head by itself: the worst tenth of the heads carries most of a model's loss, so a mean over heads
    says little. Raises InputError without texts, or for an empty or falling grid.
    """
    if not texts or not grid or list(grid) != sorted(set(grid)):
        raise InputError(f"Budgets are chosen from a rising grid on one text or more, not from {list(grid)} on {len(texts)}.")
    run = run or simulate
    heads = range(texts[0][0].shape[1])
    wanted = [dense_attention(text, scale) for text in texts]
    low, high, left = [0] * len(heads), [len(grid)] * len(heads), [0.0] * len(heads)
    while any(first < last for first, last in zip(low, high, strict=True)):
        # Heads that are settled run with the least.
        middle = [(first + last) // 2 if first < last else 0 for first, last in zip(low, high, strict=True)]
        made = CausalPrepared(tuple(grid[place] for place in middle), scale, layout)
        found = [relative_errors(run(made, text), dense) for text, dense in zip(texts, wanted, strict=True)]
        errors = torch.stack(found).mean(0)
        for head in heads:
            if low[head] == high[head]:
                continue
            if errors[head] <= tolerance:
                high[head], left[head] = middle[head], float(errors[head])
            else:
                low[head] = middle[head] + 1
    budgets = tuple(grid[place] if place < len(grid) else None for place in high)
    return CausalPrepared(budgets, scale, layout, tuple(left))


def chosen(
    errors: dict[int, torch.Tensor], *, scale: float, tolerance: float = TOLERANCE, layout: Layout = LAYOUT
) -> CausalPrepared:
    """The tolerance rule on the `errors` [H] of each budget, in rising order."""
    heads = len(next(iter(errors.values())))
    budgets = [next((budget for budget, error in errors.items() if error[head] <= tolerance), None) for head in range(heads)]
    left = tuple(0.0 if budget is None else float(errors[budget][head]) for head, budget in enumerate(budgets))
    return CausalPrepared(tuple(budgets), scale, layout, left)


def dense_attention(text: Operands, scale: float) -> torch.Tensor:
    """Causal attention itself: [B, H, N, Dv]."""
    query, key, value = text
    return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True)


def simulate(prepared: CausalPrepared, text: Operands, mask: torch.Tensor | None = None) -> torch.Tensor:
    """What the operator gives for a text and a mask [B, N] of its tokens, by the reference: [B, H, N, Dv]."""
    tiles = prepared.layout.tiles(text[0].shape[2])
    budgets = [tiles if budget is None else budget for budget in prepared.budgets]
    return causal_spectral_attention(*text, scale=prepared.scale, budget=budgets, layout=prepared.layout, key_mask=mask)
