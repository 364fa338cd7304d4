"""Errors of number formats by gradients: one backward over a few samples of a torch program, whatever the number of options.

A run of the model for each option (score.py) is the truth, and too dear for a large model: here each site is looked at once, with all
its formats, as (gradient x change of its output)^2. To second order and on average that is the same error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch

from ..cost_model.errors import InputError
from ..cost_model.fisher import OwnOutputs, change_gradients, row_changes, weight_error
from ..cost_model.net import Net
from ..kernels.low_rank.factors import SHARES
from ..kernels.quantized_linear.half_formats import HALF_FORMATS
from ..models.cache_names import is_cache
from .backend import Arrays, Group
from .padding import kept_tokens, token_rows
from .runtime_torch import as_tensors
from .score import Score, prepare_linear, simulate_linear
from .score_range import out_of_range
from .weight_columns import NUMBERS_AT_ONCE, columns, piece


def score_by_gradients(
    wanted: Mapping[Group, Iterable[str]],
    graph: torch.fx.GraphModule,
    net: Net,
    inputs: Sequence[str],
    outputs: Sequence[str],
    samples: Sequence[Arrays],
    *,
    rounding: Sequence[Arrays] = (),
    memory: float | None = None,
    known: Mapping[tuple[str, str], Score] | None = None,
    keep: Callable[[tuple[str, str], Score], None] = lambda _, __: None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[tuple[str, str], Score]:
    """(group id, format) -> Score, all `remembered`, for the formats and ranks wanted of each group of linear sites of a torch program.

    `rounding` are samples that weights are rounded on, beside those that errors are found on: on the same ones errors come out too small,
    of four bits to a third on MiniLM. Without them they are the same.

    `memory` [bytes] is what a pass may hold beside the model: below what one needs, the model is gone through block by block. Sites in
    `known` are not looked at again; each new error is given to `keep` as soon as it is found. Where no output is a number, the error of the
    weights stands for that of the outputs."""
    found = dict(known or {})
    left = {group: [name for name in sorted(names) if (group.id, name) not in found] for group, names in wanted.items()}
    left = {group: names for group, names in left.items() if names}
    if not left:
        return found
    read = {site.x for group in left for site in group.linears}
    watched = {site.output for group in left for site in group.linears}
    fed = [as_tensors(sample, inputs) for sample in (*samples, *rounding)]
    tokens = [kept_tokens(sample) for sample in (*samples, *rounding)]
    count = len(samples)
    seed = OwnOutputs(
        ignored=frozenset(number for number, name in enumerate(outputs) if is_cache(name)),
        tokens=[None if kept is None else torch.from_numpy(kept) for kept in tokens],
    )

    values: dict[str, list[torch.Tensor]] = {}
    slopes: dict[str, list[torch.Tensor]] = {}
    for number, name in enumerate(inputs):
        if name in read:
            values[name] = [sample[number] for sample in fed]
    walk = change_gradients(graph, fed, seed, sorted(watched), read=sorted(read), differentiated=count, memory=memory)
    for _, block in walk:
        values.update(block.values)
        slopes.update(block.slopes)
        # What is still needed is held above: the rest would be held while the next block runs.
        del block
        ready = [g for g in left if all(s.output in slopes for s in g.linears) and g.linears[0].x in values]
        for group in ready:
            for name in left.pop(group):
                progress(f"error of {name} at {group.id}, by gradients")
                try:
                    # A model whose outputs are integers, or all zero, has no gradients to go by.
                    share = _error(group, name, net, values, slopes, tokens, count) / seed.squares if seed.squares else None
                    error = _weight_error(group, name, net, values, tokens) if share is None else share
                except InputError as fault:
                    if name not in (*SHARES, *HALF_FORMATS):
                        raise
                    found[group.id, name] = Score(float("inf"), {}, refused=str(fault))
                    continue
                found[group.id, name] = Score(error, {}, remembered=True)
                keep((group.id, name), found[group.id, name])
        used = {value for group in left for site in group.linears for value in (site.x, site.output)}
        for held in (values, slopes):
            for value in set(held) - used:
                del held[value]
    return found


def _error(
    group: Group,
    name: str,
    net: Net,
    values: Mapping[str, list[torch.Tensor]],
    slopes: Mapping[str, list[torch.Tensor]],
    tokens: Sequence[np.ndarray | None],
    count: int,
) -> float:
    """What rounding all sites of a group to a format adds to the squared error of the outputs, over the first `count` samples; of the
    others the `tokens` that are no padding are rounded on. Raises InputError where the format does not hold what the sites read or make."""
    sites = group.linears
    rows = [value.reshape(-1, value.shape[-1]).float() for value in values[sites[0].x][:count]]
    x = _rounded_on(values[sites[0].x], tokens, count)
    moved = [torch.zeros(len(row), dtype=torch.float64) for row in rows]
    # A low rank is one of the whole weight; columns of other formats are rounded by themselves.
    pieces = [[piece(site, 0, site.out_features, net) for site in sites]] if name in SHARES else columns(sites, net)
    for parts in pieces:
        weights, biases = [weight for _, _, weight, _ in parts], [bias for _, _, _, bias in parts]
        _check_range(name, weights, biases, values[sites[0].x])
        made = prepare_linear(name, weights, biases, x)
        for prepared, (site, start, weight, bias) in zip(made, parts, strict=True):
            dense = torch.from_numpy(weight)
            for sum_of_rows, sample, row in zip(moved, slopes[site.output], rows, strict=True):
                slope = sample.reshape(len(row), -1)[:, start : start + weight.shape[1]]
                # A range of codes is one of all rows; the rows of a low rank, whose columns stay together, are independent.
                step = max(1, NUMBERS_AT_ONCE // weight.shape[1]) if name in SHARES else len(row)
                for at in range(0, len(row), step):
                    some = row[at : at + step]
                    change = simulate_linear(prepared, some) - some @ dense
                    change = change if bias is None else change - torch.from_numpy(bias)
                    sum_of_rows[at : at + step] += row_changes(slope[at : at + step], change)
    return sum(float(each.square().sum()) for each in moved)


def _check_range(
    name: str, weights: Sequence[np.ndarray], biases: Sequence[np.ndarray | None], values: Sequence[torch.Tensor]
) -> None:
    """Padding too: what is infinite there would reach the tokens as NaN."""
    # Other formats have no range to keep, and these arrays are as large as what a pass holds.
    if name in HALF_FORMATS and (beyond := out_of_range(name, weights, biases, [value.float().numpy() for value in values])):
        raise InputError(beyond)


def _rounded_on(values: Sequence[torch.Tensor], tokens: Sequence[np.ndarray | None], count: int) -> np.ndarray:
    """Rows [M, K] of a value on the samples behind the first `count`, on all where there are no others."""
    start = count if len(values) > count else 0
    return torch.cat([token_rows(v, kept).float() for v, kept in zip(values[start:], tokens[start:], strict=True)]).numpy()


def _weight_error(
    group: Group, name: str, net: Net, values: Mapping[str, list[torch.Tensor]], tokens: Sequence[np.ndarray | None]
) -> float:
    """The relative squared error of the outputs of a group for white inputs: what its weights alone say."""
    parts = [piece(site, 0, site.out_features, net) for site in group.linears]
    weights, read = [part.weight for part in parts], values[group.linears[0].x]
    _check_range(name, weights, [part.bias for part in parts], read)
    made = prepare_linear(name, weights, [None for _ in parts], _rounded_on(read, tokens, 0))
    white, none = torch.eye(len(weights[0])), torch.zeros(1, len(weights[0]))
    got = torch.cat([simulate_linear(each, white) - simulate_linear(each, none) for each in made], 1)
    return weight_error(torch.cat([torch.from_numpy(weight) for weight in weights], 1), got)
