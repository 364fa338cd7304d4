"""What spectral sparse attention does to the model's outputs, measured site by site on the scoring half of the calibration data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from ..cost_model.sites import AttentionSite
from ..kernels.spectral_attention import causal_prepare, causal_torch_module, prepare
from ..kernels.spectral_attention.causal_prepare import TOLERANCE, CausalPrepared
from ..kernels.spectral_attention.prepare import SparsePrepared, relative_errors
from .backend import Arrays, Group, Probe
from .calibration_data import relative_error
from .head_scores import budgets_of, head_scores
from .score import ROUNDING_ROWS, Score, representative

Operands = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def score_attentions(
    groups: Sequence[Group], probe: Probe, samples: Sequence[Arrays], progress: Callable[[str], None] = lambda _: None
) -> dict[tuple[str, str], Score]:
    """(group id, "spectral_sparse") -> Score for each group of one attention site; codebooks come from all `samples`, and budgets of the
    heads from the tolerance rule on the representative ones. Where that leaves every head dense, the score is a refusal."""
    probed = representative(samples)
    reference = [probe.run(sample, {}) for sample in probed]
    scores = {}
    for group in groups:
        site = group.sites[0]
        assert isinstance(site, AttentionSite)
        progress(f"error of spectral_sparse at {group.id}")
        texts = [_operands(site, probe, sample) for sample in probed]
        made = _causal(site, texts) if site.sees_no_later else _prepared(site, probe, samples, texts)
        outputs, errors = [], torch.zeros(site.heads)
        if all(budget is None for budget in budgets_of(made, max(text[1].shape[2] for text in texts))):
            heads = head_scores(made, errors, texts, TOLERANCE, site.key_length)
            scores[group.id, "spectral_sparse"] = Score(inf, {site.id: made}, heads)
            continue
        for sample, text in zip(probed, texts, strict=True):
            found = causal_torch_module.run(made, text) if isinstance(made, CausalPrepared) else prepare.simulate(made, *text)
            dense = scaled_dot_product_attention(*text, scale=site.scale, is_causal=site.sees_no_later, enable_gqa=True)
            outputs.append(probe.run(sample, {site.output: (found - dense).numpy()}))
            errors += relative_errors(found, dense) / len(texts)
        heads = head_scores(made, errors, texts, TOLERANCE, site.key_length)
        scores[group.id, "spectral_sparse"] = Score(relative_error(outputs, reference), {site.id: made}, heads)
    return scores


def _causal(site: AttentionSite, texts: Sequence[Operands]) -> CausalPrepared:
    return causal_prepare.prepare(texts, scale=site.scale, run=causal_torch_module.run)


def _prepared(site: AttentionSite, probe: Probe, samples: Sequence[Arrays], texts: Sequence[Operands]) -> SparsePrepared:
    queries: list[np.ndarray] = []
    keys: list[np.ndarray] = []
    share = -(-ROUNDING_ROWS // len(samples))
    for sample in samples:
        query, key, _ = _operands(site, probe, sample)
        for found, kept in ((query, queries), (key, keys)):
            rows = found.transpose(0, 1).flatten(1, 2)
            kept.append(rows[:, np.linspace(0, rows.shape[1] - 1, min(share, rows.shape[1])).astype(int)].numpy())
    made = prepare.prepare(np.concatenate(queries, 1), np.concatenate(keys, 1), length=site.key_length, scale=site.scale)
    return prepare.fit_budgets(made, texts, TOLERANCE)


def _operands(site: AttentionSite, probe: Probe, sample: Arrays) -> Operands:
    """Query, key and value on one sample, each [B, H, rows, D]."""
    found = probe.capture(sample, [site.query, site.key, site.value])
    query, key, value = (torch.from_numpy(np.array(found[name], np.float32)) for name in (site.query, site.key, site.value))
    return query, key.transpose(-1, -2) if site.key_transposed else key, value
