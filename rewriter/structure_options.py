"""Other structures of a weight as options of linear sites: low rank on every runtime, and refusals where a structure has no kernel."""

from __future__ import annotations

from ..cost_model.sites import LinearSite
from ..kernels.low_rank.factors import RANK_STEP, SHARES, rank_of
from .backend import Group


def structure_actions(group: Group) -> dict[str, str]:
    """Action -> the sentence that refuses it for a group of linear sites ("" if it may be taken)."""
    linears = [site for site in group.sites if isinstance(site, LinearSite)]
    shape = linears[0].in_features, sum(site.out_features for site in linears)
    return {action: _too_small(action, *shape) for action in SHARES}


def _too_small(action: str, features: int, columns: int) -> str:
    if rank_of(action, features, columns):
        return ""
    return f"a weight of {features} x {columns} has that share of its multiplications at a rank below {RANK_STEP}"
