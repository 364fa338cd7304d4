"""The weights of a group of linears, the columns of large ones some at a time: what is made of them is several times as large."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..cost_model.net import Net
from ..cost_model.sites import LinearSite

NUMBERS_AT_ONCE = 1 << 20
"""Numbers of a weight rounded at a time: rounding holds about ten copies of what it rounds, and columns are rounded by themselves."""


class Piece(NamedTuple):
    """Columns of a linear site from `start` on: `weight` float32 [K, n], `bias` float32 [n] where the site has one."""

    site: LinearSite
    start: int
    weight: np.ndarray
    bias: np.ndarray | None


def columns(sites: Sequence[LinearSite], net: Net) -> Iterator[list[Piece]]:
    """The sites of a group together, or where one is too large for that, its columns some at a time."""
    whole = [(site, 0, site.out_features) for site in sites]
    if sum(site.in_features * site.out_features for site in sites) > NUMBERS_AT_ONCE:
        step = max(1, NUMBERS_AT_ONCE // sites[0].in_features)
        pieces = [[(s, at, min(at + step, s.out_features))] for s in sites for at in range(0, s.out_features, step)]
    else:
        pieces = [whole]
    for part in pieces:
        yield [piece(*each, net) for each in part]


def piece(site: LinearSite, start: int, stop: int, net: Net) -> Piece:
    """Columns `start` to `stop` of a site."""
    array, bias = net.array(site.weight), net.array(site.bias) if site.bias else None
    assert array is not None
    weight = array[start:stop].T if site.transposed else array[:, start:stop]
    kept = None if bias is None else np.array(bias, np.float32).reshape(-1)[start:stop]
    return Piece(site, start, np.array(weight, np.float32, order="C"), kept)
