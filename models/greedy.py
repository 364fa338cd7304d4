"""Greedy generation with the two programs of a language model, whatever runs them: it needs numpy alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from .cache_names import past_of

Run = Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]]


def greedy(prefill: Run, decode: Run, input_ids: np.ndarray, attention_mask: np.ndarray, steps: int) -> np.ndarray:
    """The `steps` most likely tokens behind `input_ids`, one after the other: int64 [B, steps].

    `prefill` and `decode` take arrays by name and give arrays by name. `input_ids` and `attention_mask` are int64 [B, L], padded on the
    left. Raises ValueError for padding on the right, behind which a next token would stand apart from its text.
    """
    if not attention_mask[:, -1].all():
        raise ValueError("The texts are padded on the right; pad them on the left, so that the next token follows each.")
    outputs = prefill({"input_ids": input_ids, "attention_mask": attention_mask})
    found: list[np.ndarray] = []
    while True:
        found.append(outputs["logits"][:, -1].argmax(-1).astype(np.int64)[:, None])
        if len(found) >= steps:
            return np.concatenate(found, 1)
        attention_mask = np.concatenate([attention_mask, np.ones_like(found[-1])], 1)
        outputs = decode({"input_ids": found[-1], "attention_mask": attention_mask, **past_of(outputs)})
