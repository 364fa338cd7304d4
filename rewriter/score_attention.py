"""What spectral sparse attention does to the model's outputs, measured site by site on the scoring half of the calibration data."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from ..cost_model.sites import AttentionSite
from ..kernels.spectral_attention.prepare import SparsePrepared, prepare, simulate
from .backend import Arrays, Group, Probe
from .calibration_data import relative_error
from .score import ROUNDING_ROWS, Score, representative


def score_attentions(
    groups: Sequence[Group], probe: Probe, samples: Sequence[Arrays], progress: Callable[[str], None] = lambda _: None
) -> dict[tuple[str, str], Score]:
    """(group id, "spectral_sparse") -> Score for each group of one attention site; codebooks come from all `samples`."""
    probed = representative(samples)
    reference = [probe.run(sample, {}) for sample in probed]
    scores = {}
    for group in groups:
        site = group.sites[0]
        assert isinstance(site, AttentionSite)
        progress(f"error of spectral_sparse at {group.id}")
        made = _prepared(site, probe, samples)
        outputs = []
        for sample in probed:
            query, key, value = _operands(site, probe, sample)
            dense = scaled_dot_product_attention(query, key, value, scale=site.scale)
            outputs.append(probe.run(sample, {site.output: (simulate(made, query, key, value) - dense).numpy()}))
        scores[group.id, "spectral_sparse"] = Score(relative_error(outputs, reference), {site.id: made})
    return scores


def stand_in_attention(site: AttentionSite) -> SparsePrepared:
    """Codebooks of random rows, for timing alone."""
    rows = np.random.default_rng(0).standard_normal((2, site.heads, 512, site.head_dim)).astype(np.float32)
    return prepare(rows[0], rows[1], length=site.key_length, scale=site.scale)


def _prepared(site: AttentionSite, probe: Probe, samples: Sequence[Arrays]) -> SparsePrepared:
    queries: list[np.ndarray] = []
    keys: list[np.ndarray] = []
    share = -(-ROUNDING_ROWS // len(samples))
    for sample in samples:
        query, key, _ = _operands(site, probe, sample)
        for found, kept in ((query, queries), (key, keys)):
            rows = found.transpose(0, 1).reshape(site.heads, -1, site.head_dim)
            kept.append(rows[:, np.linspace(0, rows.shape[1] - 1, min(share, rows.shape[1])).astype(int)].numpy())
    return prepare(np.concatenate(queries, 1), np.concatenate(keys, 1), length=site.key_length, scale=site.scale)


def _operands(site: AttentionSite, probe: Probe, sample: Arrays) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, key and value on one sample, each [B, H, rows, D]."""
    found = probe.capture(sample, [site.query, site.key, site.value])
    query, key, value = (torch.from_numpy(np.array(found[name], np.float32)) for name in (site.query, site.key, site.value))
    return query, key.transpose(-1, -2) if site.key_transposed else key, value
