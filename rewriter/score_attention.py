"""What spectral sparse attention does to the model's outputs, measured site by site on the scoring half of the calibration data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from ..cost_model.sites import AttentionSite
from ..kernels.spectral_attention import causal_prepare, causal_torch_module, prepare
from ..kernels.spectral_attention.causal_prepare import TOLERANCE, CausalPrepared
from ..kernels.spectral_attention.prepare import SparsePrepared
from .backend import Arrays, Group, Probe
from .calibration_data import relative_error
from .causal import last_row
from .head_scores import head_scores
from .score import ROUNDING_ROWS, Score, chunks, representative

Operands = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

FITTED_TEXTS = 2
"""Samples that budgets are fitted on, at most. They are the longest: budgets grow with the length."""
LONG = 0.75
"""Share of the greatest length from which a text counts as among the longest, and share of the workload's that those must have: with few
tiles before them, queries read all of them exactly, and any budget seems to do (0.00 at 300 tokens was 0.68 at 1,024)."""


class Text(NamedTuple):
    """`operands` of one attention on one sample: query, key and value, each [B, H, rows, D]. Where padding is hidden they are of row
    `batch` of the sample and keys of the tokens that are there alone; `queries` [N] says of which tokens the queries are. Else of all."""

    operands: Operands
    batch: int = 0
    queries: torch.Tensor | None = None


def score_attentions(
    groups: Sequence[Group], probe: Probe, samples: Sequence[Arrays], progress: Callable[[str], None] = lambda _: None
) -> dict[tuple[str, str], Score]:
    """(group id, "spectral_sparse") -> Score for each group of one attention site; codebooks come from all `samples`, and budgets of the
    heads from the tolerance rule on the longest ones. Where that leaves every head dense, or all are far shorter than what the model is
    rewritten for, the score is a refusal."""
    longest = _longest(samples)
    probed, fitted = representative(longest), longest[:FITTED_TEXTS]
    reference = [probe.run(sample, {}) for sample in probed]
    scores = {}
    for chunk in chunks(groups, partial(_captured_bytes, samples=len(fitted))):
        sites = [site for group in chunk for site in group.sites if isinstance(site, AttentionSite)]
        read = list(dict.fromkeys(value for site in sites for value in captured_values(site)))
        captured = {id(sample): probe.capture(sample, read) for sample in _without_repeats(*fitted, *probed)}
        for group, site in zip(chunk, sites, strict=True):
            progress(f"error of spectral_sparse at {group.id}")
            texts = _long_enough([text.operands for sample in fitted for text in _texts(site, captured[id(sample)])])
            most = max((text[1].shape[2] for text in texts), default=0)
            if most < LONG * site.key_length:
                short = (
                    f"its budgets would be fitted on {most:,} tokens, and the workload has {site.key_length:,}: "
                    "give longer calibration texts"
                )
                scores[group.id, "spectral_sparse"] = Score(inf, {}, refused=short)
                continue
            made = _causal(site, texts) if site.sees_no_later else _prepared(site, probe, samples, texts)
            heads = head_scores(made, texts, TOLERANCE, site.key_length)
            if heads.refusal:
                scores[group.id, "spectral_sparse"] = Score(inf, {site.id: made}, heads)
                continue
            outputs = []
            for sample in probed:
                found = [(text, *_both(site, made, text.operands)) for text in _texts(site, captured[id(sample)])]
                size = (*captured[id(sample)][site.query].shape[:3], captured[id(sample)][site.value].shape[3])
                outputs.append(probe.run(sample, {site.output: _addend(size, found)}))
            scores[group.id, "spectral_sparse"] = Score(relative_error(outputs, reference, probed), {site.id: made}, heads)
    return scores


def _longest(samples: Sequence[Arrays]) -> list[Arrays]:
    lengths = [max((array.shape[1] for array in sample.values() if array.ndim > 1), default=0) for sample in samples]
    return [sample for sample, length in zip(samples, lengths, strict=True) if length >= LONG * max(lengths)]


def _without_repeats(*samples: Arrays) -> list[Arrays]:
    return list({id(sample): sample for sample in samples}.values())


def _captured_bytes(group: Group, samples: int) -> int:
    """Those of the operands and masks of one attention on so many samples."""
    site = group.sites[0]
    assert isinstance(site, AttentionSite)
    operands = site.head_dim * (site.heads + 2 * site.kv_heads) * site.key_length
    masks = len(site.every_mask) * site.query_length * site.key_length if site.pads_keys else 0
    return 4 * samples * (operands + masks)


def _both(site: AttentionSite, made: CausalPrepared | SparsePrepared, text: Operands) -> tuple[torch.Tensor, torch.Tensor]:
    """What sparse and dense attention give for a text."""
    found = causal_torch_module.run(made, text) if isinstance(made, CausalPrepared) else prepare.simulate(made, *text)
    return found, scaled_dot_product_attention(*text, scale=site.scale, is_causal=site.sees_no_later, enable_gqa=True)


def _long_enough(texts: Sequence[Operands]) -> list[Operands]:
    """Those among the longest: short ones, rows of a padded batch too, are read exactly and would hide what a budget does to the others."""
    most = max((text[1].shape[2] for text in texts), default=0)
    return [text for text in texts if text[1].shape[2] >= LONG * most]


def _addend(size: tuple[int, ...], found: Sequence[tuple[Text, torch.Tensor, torch.Tensor]]) -> np.ndarray:
    """What sparse attention adds to the output of that size, nothing for queries of which none is told."""
    addend = torch.zeros(size)
    for text, sparse, dense in found:
        if text.queries is None:
            addend += sparse - dense
        else:
            addend[text.batch][:, text.queries] = (sparse - dense)[0]
    return addend.numpy()


def _causal(site: AttentionSite, texts: Sequence[Operands]) -> CausalPrepared:
    return causal_prepare.prepare(texts, scale=site.scale, run=causal_torch_module.run)


def _prepared(site: AttentionSite, probe: Probe, samples: Sequence[Arrays], texts: Sequence[Operands]) -> SparsePrepared:
    queries: list[np.ndarray] = []
    keys: list[np.ndarray] = []
    share = -(-ROUNDING_ROWS // len(samples))
    for sample in samples:
        for (query, key, _), *_ in _texts(site, probe.capture(sample, captured_values(site))):
            for found, kept in ((query, queries), (key, keys)):
                rows = found.transpose(0, 1).flatten(1, 2)
                kept.append(rows[:, np.linspace(0, rows.shape[1] - 1, min(share, rows.shape[1])).astype(int)].numpy())
    made = prepare.prepare(np.concatenate(queries, 1), np.concatenate(keys, 1), length=site.key_length, scale=site.scale)
    return prepare.fit_budgets(made, texts, TOLERANCE)


def captured_values(site: AttentionSite) -> list[str]:
    """What a sample must be captured for."""
    masks = [mask.value for mask in site.every_mask] if site.pads_keys else []
    return [site.query, site.key, site.value, *masks]


def _texts(site: AttentionSite, found: Arrays) -> list[Text]:
    """The texts of one sample, from what was captured of it."""
    query, key, value = (torch.from_numpy(np.array(found[name], np.float32)) for name in (site.query, site.key, site.value))
    key = key.transpose(-1, -2) if site.key_transposed else key
    if not site.pads_keys:
        return [Text((query, key, value))]
    rows = [last_row(mask, np.asarray(found[mask.value])) for mask in site.every_mask]
    there = torch.from_numpy(np.logical_and.reduce(np.broadcast_arrays(*rows))).expand(len(query), -1)
    found_texts = []
    for row, kept in enumerate(there):
        # What a padded position gives is not defined where no later one is seen; elsewhere padding may ask, and is not asked.
        queries = kept if site.sees_no_later else torch.ones_like(kept)
        operands = query[row : row + 1, :, queries], key[row : row + 1, :, kept], value[row : row + 1, :, kept]
        found_texts += [Text(operands, row, queries)] if kept.any() else []
    return found_texts
