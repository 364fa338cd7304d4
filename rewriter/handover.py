"""How texts reach a decode program: the original prefill reads their beginning, and its caches go in along with the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..models.cache_names import past_of
from .backend import Arrays, Runner
from .calibration_data import CalibrationData

IDS, MASK, LOGITS = "input_ids", "attention_mask", "logits"
BEGINNING = 8
"""One part in so many of a text, and two tokens of a short one, is its beginning. The decode program reads the rest at once, so that its
later tokens read the caches that it made of the earlier ones, as they do when it generates: what is wrong in those shows in the logits."""


@dataclass(frozen=True)
class Handover:
    """`prefill` runs the original prefill: IDS and MASK (int64 [B, T]) -> LOGITS [B, T, V] and caches."""

    prefill: Runner

    def sample(self, text: Arrays) -> dict[str, np.ndarray]:
        """The inputs of the decode program for a text of two tokens at least."""
        return self._rest(text, self.prefill(_beginning(text)))

    def calibration(self, data: CalibrationData | None) -> CalibrationData | None:
        """The same samples of texts as the decode program reads them, without those of a single token; None where none is left."""
        if data is None:
            return None
        halves = [self._samples(half) for half in (data.scoring, data.held_out)]
        if not all(halves):
            return None
        return CalibrationData(halves[0], halves[1], data.is_held_out)

    def metric(self, metric: Callable[[Runner], float]) -> Callable[[Runner], float]:
        """`metric`, which gives texts to a runner, for the decode program: it sees the logits of whole texts, those of the beginnings by
        the original prefill."""

        def judged(decode: Runner) -> float:
            def run(text: Arrays) -> dict[str, np.ndarray]:
                first = self.prefill(_beginning(text))
                if text[IDS].shape[1] < 2:
                    return {LOGITS: first[LOGITS]}
                return {LOGITS: np.concatenate([first[LOGITS], decode(self._rest(text, first))[LOGITS]], 1)}

            return metric(run)

        return judged

    def _samples(self, texts: Sequence[Arrays]) -> tuple[dict[str, np.ndarray], ...]:
        return tuple(self.sample(text) for text in texts if text[IDS].shape[1] > 1)

    def _rest(self, text: Arrays, first: Arrays) -> dict[str, np.ndarray]:
        return {IDS: text[IDS][:, _cut(text) :], MASK: text[MASK], **past_of(first)}


def _cut(text: Arrays) -> int:
    length = text[IDS].shape[1]
    return max(1, min(length - 1, max(2, length // BEGINNING)))


def _beginning(text: Arrays) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(text[name][:, : _cut(text)]) for name in (IDS, MASK)}
