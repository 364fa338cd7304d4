"""Sentence embeddings from an encoder: batches of padded tokens in, mean-pooled unit vectors out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]


def tokens(tokenizer: Any, texts: Sequence[str], names: Sequence[str], max_length: int = 512) -> dict[str, np.ndarray]:
    """One batch of `texts`, padded to its longest: the tokenizer's arrays called `names`, each int64 [B, L]."""
    encoded = tokenizer(list(texts), padding=True, truncation=True, max_length=max_length, return_tensors="np")
    return {name: np.asarray(encoded[name], dtype=np.int64) for name in names}


def pool(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean of `hidden` [B, L, D] over the positions where `mask` [B, L] is 1, scaled to unit length: [B, D]."""
    weights = mask[..., None].astype(hidden.dtype)
    mean = (hidden * weights).sum(1) / weights.sum(1)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def embedder(
    run: Callable[[dict[str, np.ndarray]], Arrays], tokenizer: Any, names: Sequence[str], batch: int = 50
) -> Callable[[list[str]], np.ndarray]:
    """`embed(texts) -> [T, D]` from a model whose first output is [B, L, D]. `run` takes the arrays called `names`.

    Texts are batched in order of length, so that little is padding; the order of the result is that of the texts.
    """

    def embed(texts: list[str]) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda index: (len(texts[index]), index))
        rows: list[np.ndarray | None] = [None] * len(texts)
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            inputs = tokens(tokenizer, [texts[index] for index in chosen], tuple({*names, "attention_mask"}))
            hidden = next(iter(run({name: inputs[name] for name in names}).values()))
            for index, row in zip(chosen, pool(hidden, inputs["attention_mask"]), strict=True):
                rows[index] = row
        return np.stack([row for row in rows if row is not None])

    return embed


def mean_cosine(left: np.ndarray, right: np.ndarray) -> float:
    """Mean cosine of paired rows of two [T, D] arrays of unit vectors."""
    return float((left * right).sum(-1).mean())
