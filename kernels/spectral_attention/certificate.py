"""What sampled inter-cluster edges say of spectral attention: how far it is off, with a stated confidence, and a form without bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy import stats

from .prepare import SparsePrepared
from .reference import NEVER, Layout, attend, held, layout, rows

Sampling = Literal["uniform", "resistance"]
UNIFORM_SHARE = 0.25
"""Share of uniform draws among those by effective resistance: no weight of a sample exceeds four times that of a uniform one."""
REPLICATES = 8
"""Parts of the samples, each an estimate of its own; the interval comes from how far they differ."""


@dataclass(frozen=True)
class Interval:
    """An estimate of each batch row and head and its two-sided bounds, float64 arrays [B, H]."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Certificate:
    """`error`: |found - dense| / |dense| (Frobenius over all queries). `left_out`: the share of dense attention's weight, a mean over
    queries, that lies on keys which are not attended to exactly. Each interval holds with probability `confidence` (Student's t over
    independent replicates, so approximately). `samples`: sampled keys for each tile of queries."""

    error: Interval
    left_out: Interval
    confidence: float
    samples: int


class Residuals(NamedTuple):
    """Of each query in its tile, over exp(`log_scale`) [B, H, I, tile], which is what the weights of the plain form are divided by: the
    plain `output` [B, H, I, tile, Dv], and each sample's unbiased estimate of what the plain form lacks, in its `numerator`
    [B, H, I, tile, samples, Dv] and in its `denominator` [B, H, I, tile, samples]."""

    output: torch.Tensor
    log_scale: torch.Tensor
    numerator: torch.Tensor
    denominator: torch.Tensor


def certified_attention(
    prepared: SparsePrepared,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    samples: int,
    sampling: Sampling = "resistance",
    unbiased: bool = False,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[torch.Tensor, Certificate]:
    """(output [B, H, N, Dv] as `simulate` gives it, what `samples` keys for each tile of queries say of it).

    Each sample is an edge of the attention graph between a tile of queries and a key out of reach, so N * samples weights in all. With
    `unbiased` the samples are added to the output's numerator and denominator, which then have the dense ones as their expectation; this
    raises the error at budgets worth having (N = 4096, 64 samples), and is for those who need the theorem. The certificate is of the
    plain form in either case. Raises ValueError for fewer than two samples a replicate.
    """
    if samples < 2 * REPLICATES or samples % REPLICATES:
        raise ValueError(f"A certificate takes a multiple of {REPLICATES} samples, from {2 * REPLICATES} on, not {samples}.")
    plan = plan_of(prepared, query, key, value, mask)
    found = residuals(plan, samples, sampling, torch.Generator().manual_seed(seed))
    output = found.output
    if unbiased:
        output = (output + found.numerator.mean(-2)) / (1 + found.denominator.mean(-1))[..., None]
    output = rows(output.flatten(2, 3), plan.order.argsort(dim=-1)).to(query.dtype)
    return output, _certificate(plan, found, confidence)


def plan_of(
    prepared: SparsePrepared, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
) -> Layout:
    """The tiles and masses of `prepared` on these operands."""
    codebooks = torch.from_numpy(prepared.query_codebook), torch.from_numpy(prepared.key_codebook)
    return layout(
        query, key, value, *codebooks,
        scale=prepared.scale, tile=prepared.tile, budget=prepared.budget, key_mask=mask, key_tile=prepared.key_tile,
    )  # fmt: skip


def residuals(plan: Layout, samples: int, sampling: Sampling, generator: torch.Generator) -> Residuals:
    """`samples` keys, drawn with replacement for each tile of queries out of its far tiles, each weighted by 1 / its probability.

    "uniform": every far key alike. "resistance": in proportion to the weight of the edge between the mean query and the key, times the
    effective resistance between their tiles (paper Theorem 9.2, which draws edges by weight times resistance). Where all tiles are exact
    there is nothing to draw, and the residuals are zero.
    """
    output, log_scale = attend(plan)
    keys, values, queries = plan.keys, plan.values, plan.queries.rows
    size = keys.rows.shape[3]
    places = held(keys).squeeze(-1)[:, :, None].expand(*plan.exact.shape, size)
    far = (places & ~plan.exact[..., None]).flatten(3)
    chance = _normalised(far.double())
    if sampling == "resistance":
        logits = (plan.queries.means @ keys.rows.flatten(2, 3).mT).masked_fill(~far, NEVER)
        leverage = far * logits.double().softmax(-1) * tile_graph(plan)[1].repeat_interleave(size, -1)
        chance = UNIFORM_SHARE * chance + (1 - UNIFORM_SHARE) * _normalised(leverage)
        chance = _normalised(chance)
    drawable = far.any(-1, keepdim=True)
    slot = torch.multinomial(torch.where(drawable, chance, 1.0).flatten(0, 2), samples, True, generator=generator)
    slot = slot.view(*chance.shape[:3], samples)
    tile = slot // size
    log_weight = chance.gather(-1, slot).clamp(min=1e-300).log().neg().masked_fill(~far.gather(-1, slot), NEVER).float()

    drawn_keys, drawn_values = (
        rows(x.flatten(2, 3), slot.flatten(2)).unflatten(2, tile.shape[2:]) for x in (keys.rows, values.rows)
    )
    mean_keys, mean_values = (rows(x, tile.flatten(2)).unflatten(2, tile.shape[2:]) for x in (keys.means, values.means))
    log_count = keys.counts[:, :, None].clamp(min=1).log().expand(plan.mass.shape)
    spread = (plan.mass - log_count).gather(-1, tile)[..., None, :]
    log_weight = log_weight[..., None, :] - log_scale[..., None]
    there = (queries @ drawn_keys.mT + log_weight).exp()[..., None]
    instead = (queries @ mean_keys.mT + spread + log_weight).exp()[..., None]
    first_order = (queries @ plan.first_order)[..., None, :]
    numerator = there * drawn_values[..., None, :, :] - instead * (mean_values[..., None, :, :] + first_order)
    return Residuals(output, log_scale, numerator, (there - instead).squeeze(-1))


def tile_graph(plan: Layout) -> tuple[torch.Tensor, torch.Tensor]:
    """(weight, effective resistance) of each edge of the graph between tiles of queries and tiles of keys [B, H, I, J], float64. An edge
    weighs the softmax, over all tiles of keys, of the mean logit and the count: the random walk of the paper's Definition 8.1 with each
    cluster as one node. Their products, the leverages, lie in [0, 1] and sum to the nodes less the components (Foster's theorem)."""
    counts = plan.keys.counts[:, :, None]
    logits = plan.queries.means @ plan.keys.means.mT + counts.clamp(min=1).log().masked_fill(counts == 0, NEVER)
    weights = logits.double().softmax(-1)
    blocks, tiles = weights.shape[-2:]
    laplacian = torch.zeros(*weights.shape[:2], blocks + tiles, blocks + tiles, dtype=torch.float64)
    laplacian[..., :blocks, blocks:], laplacian[..., blocks:, :blocks] = -weights, -weights.mT
    laplacian = laplacian + torch.diag_embed(torch.cat([weights.sum(-1), weights.sum(-2)], dim=-1))
    inverse = torch.linalg.pinv(laplacian, hermitian=True)
    own = inverse.diagonal(dim1=-2, dim2=-1)
    resistance = own[..., :blocks, None] + own[..., None, blocks:] - 2 * inverse[..., :blocks, blocks:]
    return weights, resistance.clamp(min=0)


def _normalised(chance: torch.Tensor) -> torch.Tensor:
    return chance / chance.sum(-1, keepdim=True).clamp(min=1e-300)


class _Sums(NamedTuple):
    """Over some samples, `number` of them: each query's sum of residual less output times denominator [.., Dv], its squares' sum, and the
    sum of denominators."""

    lost: torch.Tensor
    squares: torch.Tensor
    denominator: torch.Tensor
    number: int


def _certificate(plan: Layout, found: Residuals, confidence: float) -> Certificate:
    """With e the numerator's residual less output times the denominator's, dense - output = E[e] / (1 + E[denominator]) exactly. The
    square of a mean is estimated without bias from the products of two different samples; the quotients' bias goes by the jackknife."""
    present = held(plan.queries).squeeze(-1).double()
    output = found.output.double()
    denominators = found.denominator.double().unflatten(-1, (REPLICATES, -1))
    lost = found.numerator.double() - output[..., None, :] * found.denominator.double()[..., None]
    lost = lost.unflatten(-2, (REPLICATES, -1))
    parts = [lost.sum(-2), lost.square().sum((-1, -2)), denominators.sum(-1)]
    whole = _Sums(parts[0].sum(-2), parts[1].sum(-1), parts[2].sum(-1), found.denominator.shape[-1])
    rest = whole.number - denominators.shape[-1]
    without = [
        _Sums(
            whole.lost - parts[0][..., part, :],
            whole.squares - parts[1][..., part],
            whole.denominator - parts[2][..., part],
            rest,
        )
        for part in range(REPLICATES)
    ]
    far = (plan.queries.rows @ plan.keys.means[:, :, None].mT + plan.mass[..., None, :]).double().logsumexp(-1)
    far = (far - found.log_scale).exp()
    error = _skewed(
        _squared_error(whole, output, present),
        torch.stack([_squared_error(sums, output, present) for sums in without], dim=-1),
        confidence,
    )
    share = _interval(
        _left_out(whole, far, present), torch.stack([_left_out(sums, far, present) for sums in without], dim=-1), confidence
    )
    root, share = (
        Interval(*(bound.clip(0.0, most) for bound in (each.value, each.low, each.high)))
        for each, most in ((error, np.inf), (share, 1.0))
    )
    return Certificate(Interval(np.sqrt(root.value), np.sqrt(root.low), np.sqrt(root.high)), share, confidence, whole.number)


def _scale(sums: _Sums) -> torch.Tensor:
    return (1 + sums.denominator / sums.number).clamp(min=0.1)


def _squared_error(sums: _Sums, output: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """|dense - output|^2 / |dense|^2 [B, H]."""
    scale = _scale(sums)
    square = (sums.lost.square().sum(-1) - sums.squares) / (sums.number * (sums.number - 1)) / scale.square()
    cross = (sums.lost / sums.number * output).sum(-1) / scale
    whole = ((output.square().sum(-1) + 2 * cross + square) * present).sum((2, 3))
    return (square * present).sum((2, 3)) / whole


def _left_out(sums: _Sums, far: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """The share of the weight that is out of reach [B, H]; `far` is what the plain form gives it [B, H, I, tile]."""
    share = (far + sums.denominator / sums.number) / _scale(sums)
    return (share * present).sum((2, 3)) / present.sum((2, 3))


def _interval(whole: torch.Tensor, without: torch.Tensor, confidence: float) -> Interval:
    """Student's t around the jackknife's estimate from `whole` [B, H] and from the same `without` each replicate [B, H, replicates]."""
    number = without.shape[-1]
    bias = (number - 1) * (without.mean(-1) - whole)
    spread = (without - without.mean(-1, keepdim=True)).square().sum(-1).mul((number - 1) / number).sqrt()
    value, half = (whole - bias).numpy(), (stats.t.ppf((1 + confidence) / 2, number - 1) * spread).numpy()
    return Interval(value, value - half, value + half)


def _skewed(whole: torch.Tensor, without: torch.Tensor, confidence: float) -> Interval:
    """`_interval` for a square that few and heavy samples carry: the bias that was taken off counts as an uncertainty as well, and the
    upper bound is that of the logarithm, for samples that by chance miss what is heavy look alike too. Without these two the intervals of
    95 % held 66 to 83 % of the errors at 64 and 256 samples (planted clusters, error 0.13), with them 94 to 99 %."""
    plain = _interval(whole, without, confidence)
    half = np.hypot(plain.high - plain.value, plain.value - whole.numpy())
    ratio = np.divide(half, plain.value, out=np.zeros_like(half), where=plain.value > 0)
    above = plain.value * np.exp(np.minimum(ratio, 1.5))
    return Interval(plain.value, plain.value - half, np.maximum(plain.value + half, above))
