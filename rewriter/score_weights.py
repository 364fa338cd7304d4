"""Errors of number formats where there is no data: what rounding does to a site's own outputs where its inputs are white noise.

Their sum over the sites of a plan stands for the relative squared error of the model's outputs: as if each error reached them as large as
it is made. What a format does to inputs of other ranges cannot be known so, and formats that depend on them are not offered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from ..cost_model.errors import InputError
from ..cost_model.fisher import weight_error
from ..cost_model.net import Net
from ..cost_model.sites import EmbeddingSite
from ..kernels.quantized_embedding.formats import BITS, looked_up, prepare_table
from ..kernels.quantized_linear.formats import Prepared
from .backend import Group
from .candidates import format_of
from .score import Score, linear_bias, linear_weight, prepare_linear, simulate_linear

FORMATS = ("int8_weight", "int4_weight", "int8_column_weight", "int4_group_weight", "fp8_column_weight", "bfloat16")
"""Formats of linears whose inputs stay as they are, or are rounded by their own size: int8_weight and int4_weight in blocks of a row."""

WHITE_ROWS = 256
"""The errors of a layer 384 wide lay within 3 % for eight draws of so many rows."""


def by_weights(action: str) -> bool:
    """Whether the error of an action can be told from weights alone."""
    return format_of(action) in FORMATS or action in BITS


def score_by_weights(
    wanted: Mapping[Group, str], net: Net, progress: Callable[[str], None] = lambda _: None
) -> dict[tuple[str, str], Score]:
    """(group id, format) -> Score for the format wanted of each group of linears or table, rounded to nearest."""
    found = {}
    for group, name in wanted.items():
        progress(f"error of {name} at {group.id}, by its weights")
        site = group.sites[0]
        found[group.id, name] = _table(site, name, net) if isinstance(site, EmbeddingSite) else _linears(group, name, net)
    return found


def white_error(made: Sequence[Prepared], weights: Sequence[np.ndarray], biases: Sequence[np.ndarray | None]) -> float:
    """||y' - y||^2 / ||x W||^2 of what layers of `weights` [K, N] were made to, y' for y = x W + b, with x of `WHITE_ROWS` rows of normal
    numbers, the same for all."""
    x = torch.randn(WHITE_ROWS, len(weights[0]), generator=torch.Generator().manual_seed(0))
    change = scale = 0.0
    for each, weight, bias in zip(made, weights, biases, strict=True):
        product = x @ torch.from_numpy(weight)
        exact = product if bias is None else product + torch.from_numpy(bias)
        change += float((simulate_linear(each, x) - exact).double().square().sum())
        scale += float(product.double().square().sum())
    return change / scale if scale else 0.0


def _linears(group: Group, name: str, net: Net) -> Score:
    sites = group.linears
    weights, biases = [linear_weight(net, s) for s in sites], [linear_bias(net, s) for s in sites]
    made = prepare_linear(name, weights, biases, None)
    return Score(white_error(made, weights, biases), {s.id: each for s, each in zip(sites, made, strict=True)})


def _table(site: EmbeddingSite, name: str, net: Net) -> Score:
    """Every row as likely as another."""
    table = np.array(net.array(site.table), np.float32)
    try:
        prepared = prepare_table(name, table)
    except InputError as fault:
        return Score(float("inf"), {}, refused=str(fault))
    rounded = looked_up(prepared, np.arange(len(table)))
    return Score(weight_error(torch.from_numpy(table), torch.from_numpy(rounded)), {site.id: prepared})
