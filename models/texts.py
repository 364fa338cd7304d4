"""Texts to calibrate a language model on: mixed lengths, from the standard library, disjoint from the retrieval metric.

Short texts alone are not enough: weights rounded on them took the cosine of long texts from 0.999 to 0.970.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .embedding import tokens
from .retrieval import pairs
from .standard_library import documented, first_line, stable_order, topics

# (texts in a batch, words in a text at most): short sentences with padding, paragraphs, and texts of 300 to 512 tokens.
SHAPES = ((24, 24), (5, 60), (2, 280))


def sentences() -> list[str]:
    """Summaries of classes, modules and functions that the retrieval metric does not use, in a fixed shuffled order."""
    used = {text for pair in pairs() for text in pair}
    found = {first_line(docstring) for _, _, docstring in documented()} - used
    return sorted((line for line in found if 3 <= len(line.split()) <= 60), key=stable_order)


def passages(words: int = 280) -> list[str]:
    """Pieces of exactly `words` words of the language reference, in a fixed shuffled order, none with a line of the metric."""
    used = [line for _, line in pairs()]
    found = []
    for text in topics():
        split = text.split()
        found += [" ".join(split[start : start + words]) for start in range(0, len(split) - words + 1, words)]
    return sorted((text for text in found if not any(line in text for line in used)), key=stable_order)


def batches(rounds: int = 6) -> list[list[str]]:
    """3 * `rounds` batches of texts, in turn short, middling and long, so that any half of them holds every length.

    Each text is used once; lengths inside a batch differ, so that every batch has padding.
    """
    short, long = iter(sentences()), iter(passages())
    found = []
    for _ in range(rounds):
        for count, words in SHAPES:
            source = short if words <= 24 else long
            limits = [max(4, words - step * words // (2 * count)) for step in range(count)]
            found.append([" ".join(next(source).split()[:limit]) for limit in limits])
    return found


def calibration(tokenizer: Any, names: Sequence[str], max_length: int = 512, rounds: int = 6) -> list[dict[str, np.ndarray]]:
    """The batches as a model's inputs called `names`, each int64 [B, L], L at most `max_length`."""
    return [tokens(tokenizer, batch, names, max_length) for batch in batches(rounds)]
