"""Which tokens of a sample are padding: nobody reads what a model gives there, so it counts in no error of outputs [B, L, D], and no linear
layer is rounded on it.

A third of the tokens of MiniLM's calibration texts is padding. Weights rounded without it left 8 to 14 % less of 1 - cosine in three
integer formats (on long texts 9 % less, 19 % less, and 5 % more)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import torch

MASK = "attention_mask"
"""What the ecosystem's models call the input that tells tokens (1) from padding (0)."""

TOKENS = "input_ids"

Rows = TypeVar("Rows", np.ndarray, torch.Tensor)


def kept_tokens(sample: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """[B, L], True where a token of `sample` is no padding; None where nothing is padded, or where that is not sure: what a decoder gives
    is not hidden by the mask of the encoder beside it. Behind caches the mask is longer than the tokens, which are its last."""
    mask = sample.get(MASK)
    if mask is None or mask.ndim != 2 or any(name.startswith(("decoder", "encoder")) for name in sample):
        return None
    # A mask that is added holds other numbers than these.
    if not np.isin(mask, (0, 1)).all():
        return None
    words = sample.get(TOKENS)
    kept = mask != 0 if words is None or words.ndim != 2 else mask[:, -words.shape[1] :] != 0
    return kept if kept.any() and not kept.all() else None


def token_rows(value: Rows, kept: np.ndarray | None) -> Rows:
    """The rows [M, K] of `value` [..., K], without padding where it is [B, L, K] or [B * L, K]."""
    rows = value.reshape(-1, value.shape[-1])
    if kept is None or tuple(value.shape[:-1]) not in (kept.shape, (kept.size,)):
        return rows
    return rows[np.flatnonzero(kept)]  # type: ignore[index]  # torch takes a numpy index too
