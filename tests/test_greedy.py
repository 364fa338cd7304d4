"""Greedy generation takes the most likely token, grows the mask by one, and hands the caches on under the names that are read."""

import numpy as np
import pytest

from szilard.models.greedy import greedy


def logits(tokens):
    """The most likely token behind t is t + 1."""
    return np.eye(50)[(tokens + 1) % 50]


def test_each_step_reads_the_token_and_the_caches_of_the_step_before():
    seen = []

    def prefill(feeds):
        assert set(feeds) == {"input_ids", "attention_mask"}
        return {"logits": logits(feeds["input_ids"]), "present.0.key": feeds["input_ids"], "other": 0}

    def decode(feeds):
        assert set(feeds) == {"input_ids", "attention_mask", "past_key_values.0.key"}
        held = np.concatenate([feeds["past_key_values.0.key"], feeds["input_ids"]], 1)
        assert feeds["attention_mask"].shape == held.shape
        seen.append((held.shape, feeds["attention_mask"].sum(1).tolist()))
        return {"logits": logits(feeds["input_ids"]), "present.0.key": held}

    ids, mask = np.array([[0, 3, 7], [4, 5, 20]]), np.array([[0, 1, 1], [1, 1, 1]])
    assert greedy(prefill, decode, ids, mask, 4).tolist() == [[8, 9, 10, 11], [21, 22, 23, 24]]
    assert seen == [((2, 4), [3, 4]), ((2, 5), [4, 5]), ((2, 6), [5, 6])]


def test_one_token_needs_no_decode_step():
    assert greedy(lambda feeds: {"logits": logits(feeds["input_ids"])}, None, np.array([[2]]), np.array([[1]]), 1) == [[3]]


def test_padding_behind_a_text_is_refused():
    with pytest.raises(ValueError, match="pad them on the left"):
        greedy(None, None, np.array([[2, 0]]), np.array([[1, 0]]), 4)
