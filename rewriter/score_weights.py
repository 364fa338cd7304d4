"""Errors of number formats where there is no data: what rounding does to a site's own outputs where its inputs are white noise.

Their sum over the sites of a plan stands for the relative squared error of the model's outputs, as if each error reached them as large as
it is made. Formats with one scale for the activations of a call or a row are not offered: their errors are those of the largest numbers
that come, of which weights say nothing. In blocks of a row, as int8_weight and int4_weight round them, and in bfloat16 a large number hides
few others or none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch

from ..cost_model.errors import InputError
from ..cost_model.net import Net
from ..cost_model.sites import EmbeddingSite
from ..kernels.quantized_embedding.formats import BITS, looked_up, prepare_table
from ..kernels.quantized_linear.formats import Prepared
from .backend import Group
from .candidates import format_of
from .score import Score, linear_bias, linear_weight, prepare_linear, simulate_linear
from .weight_columns import NUMBERS_AT_ONCE, Piece, columns

WEIGHT_FORMATS = ("int8_weight", "int4_weight", "int8_column_weight", "int4_group_weight", "fp8_column_weight", "bfloat16")

WHITE_ROWS = 256
"""The errors of a layer 384 wide lay within 3 % for eight draws of so many rows."""


def by_weights(action: str) -> bool:
    """Whether the error of an action can be told from weights alone."""
    return format_of(action) in WEIGHT_FORMATS or action in BITS


def score_by_weights(
    wanted: Mapping[Group, str], net: Net, progress: Callable[[str], None] = lambda _: None
) -> dict[tuple[str, str], Score]:
    """(group id, format) -> Score for the format wanted of each group of linears or table, rounded to nearest. Linears are only
    `remembered`: what a plan takes of them is prepared when it is known."""
    found = {}
    for group, name in wanted.items():
        progress(f"error of {name} at {group.id}, by its weights")
        site = group.sites[0]
        if isinstance(site, EmbeddingSite):
            found[group.id, name] = _table(site, name, net)
        else:
            found[group.id, name] = Score(white_error(name, columns(group.linears, net)), {}, remembered=True)
    return found


def prepare_by_weights(
    wanted: Mapping[Group, Iterable[str]], net: Net, progress: Callable[[str], None] = lambda _: None
) -> dict[tuple[str, str], dict[str, Prepared]]:
    """(group id, format) -> site id -> what the rewrite needs, rounded to nearest."""
    made: dict[tuple[str, str], dict[str, Prepared]] = {}
    for group, names in wanted.items():
        sites = group.linears
        for name in sorted(names):
            progress(f"rounding to {name} at {group.id}")
            parts = prepare_linear(name, [linear_weight(net, s) for s in sites], [linear_bias(net, s) for s in sites], None)
            made[group.id, name] = {site.id: part for site, part in zip(sites, parts, strict=True)}
    return made


def white_error(name: str, pieces: Iterable[list[Piece]]) -> float:
    """||y' - y||^2 / ||x W||^2 of layers in a format, y' for y = x W + b, whose columns come in `pieces` [K, n], with x [WHITE_ROWS, K] of
    normal numbers, the same for all."""
    change = scale = 0.0
    for parts in pieces:
        x = torch.randn(WHITE_ROWS, len(parts[0].weight), generator=torch.Generator().manual_seed(0))
        made = prepare_linear(name, [part.weight for part in parts], [part.bias for part in parts], None)
        for each, part in zip(made, parts, strict=True):
            product = x @ torch.from_numpy(part.weight)
            exact = product if part.bias is None else product + torch.from_numpy(part.bias)
            change += float((simulate_linear(each, x) - exact).double().square().sum())
            scale += float(product.double().square().sum())
    return change / scale if scale else 0.0


def _table(site: EmbeddingSite, name: str, net: Net) -> Score:
    """The relative squared error of its rows, every one as likely as another."""
    table = np.array(net.array(site.table), np.float32)
    try:
        prepared = prepare_table(name, table)
    except InputError as fault:
        return Score(float("inf"), {}, refused=str(fault))
    change = scale = 0.0
    step = max(1, NUMBERS_AT_ONCE // site.width)
    for start in range(0, len(table), step):
        rows = np.arange(start, min(start + step, len(table)))
        change += float(np.square(looked_up(prepared, rows) - table[rows], dtype=np.float64).sum())
        scale += float(np.square(table[rows], dtype=np.float64).sum())
    return Score(change / scale if scale else 0.0, {site.id: prepared})
