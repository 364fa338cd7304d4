"""Spectral evidence for a sample of heads: what the sparse form keeps of the dense spectrum, beside the measured error and the decision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any

import numpy as np
from scipy.sparse.linalg import ArpackNoConvergence

from ..cost_model.errors import InputError
from ..cost_model.spectral import attention_walk
from ..cost_model.spectral_evidence import Evidence, evidence, printed_advice
from ..kernels.spectral_attention.causal_prepare import CausalPrepared
from ..kernels.spectral_attention.walk import causal_walk, operator_walk
from .head_scores import HeadSample, HeadScores, Prepared
from .score import Score

HEADS = 6
"""Most heads of a model that are looked at: a processor second each."""


@dataclass(frozen=True, eq=False)
class Sampled:
    """One sampled head of a site, with what calibration made of the site."""

    site: str
    heads: HeadScores
    sample: HeadSample
    prepared: Prepared

    @property
    def error(self) -> float:
        """The measured relative error of its output."""
        return self.heads.errors[self.sample.head]


def spectral_evidence(
    scores: Mapping[tuple[str, str], Score], sparse: Sequence[str], progress: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """One row of plain data for each sampled head of the sites that went `sparse`, or, where none did, of all that were scored.

    A row has the head's budget, measured error and decision; the source's quality of the dense walk and what its tree advises; and all of
    `Evidence`, or under "reason" why there is none.
    """
    known = [
        Sampled(site, score.heads, sample, score.prepared[site])
        for (site, _), score in scores.items()
        if score.heads
        for sample in score.heads.samples
    ]
    rows = []
    for each in picked([each for each in known if each.site in sparse] or known):
        progress(f"spectral evidence of head {each.sample.head} at {each.site}")
        rows.append(_row(each, each.site in sparse))
    return rows


def picked(known: Sequence[Sampled]) -> list[Sampled]:
    """At most `HEADS` of the heads, in their order: those of worst, median and best error, then the median ones of other sites, spread
    evenly over them, then any."""
    by_error = sorted(known, key=lambda each: -each.error)
    chosen = [by_error[0], by_error[len(known) // 2], by_error[-1]] if known else []
    of_site: dict[str, list[Sampled]] = {each.site: [] for each in known}
    for each in by_error:
        of_site[each.site].append(each)
    seen = {each.site for each in chosen}
    others = [heads[len(heads) // 2] for site, heads in of_site.items() if site not in seen]
    wanted = min(HEADS - len(set(chosen)), len(others))
    chosen += [others[round(place)] for place in np.linspace(0, len(others) - 1, wanted)]
    chosen = list(dict.fromkeys([*chosen, *by_error]))[:HEADS]
    return [each for each in known if each in chosen]


def _row(each: Sampled, sparse: bool) -> dict[str, Any]:
    heads, sample = each.heads, each.sample
    row = {
        "site": each.site,
        "head": sample.head,
        "budget": heads.budgets[sample.head],
        "error": each.error,
        "decision": "sparse" if sparse else "dense",
        "causal": heads.causal,
        "length": heads.length,
        "every": sample.every,
    }
    try:
        found = _evidence(each)
    except (InputError, ArpackNoConvergence) as fault:
        return {**row, "reason": str(fault)}
    return {**row, "advice": printed_advice(found.dense.quality, heads.length), **found.as_dict()}


def _evidence(each: Sampled) -> Evidence:
    """As many clusters are asked for as the source's algorithm takes, the root of the tokens."""
    query, key, made, head = each.sample.query, each.sample.key, each.prepared, each.sample.head
    dense = attention_walk((query * made.scale).numpy(), key.numpy(), causal=each.heads.causal)
    if isinstance(made, CausalPrepared):
        walk, edges = causal_walk(query, key, made, head)
    else:
        tile, key_tile = (max(1, size // each.sample.every) for size in (made.tile, made.key_tile or made.tile))
        walk, edges = operator_walk(query, key, replace(made, tile=tile, key_tile=key_tile), head)
    return evidence(dense, walk, edges, isqrt(len(query)), causal=each.heads.causal)
