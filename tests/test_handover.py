"""Texts reach a decode program with the caches of their beginning, and a metric of texts judges it by the logits of whole ones."""

import numpy as np
import pytest

from szilard.rewriter.calibration_data import CalibrationData
from szilard.rewriter.handover import BEGINNING, Handover


def text(length, start=0):
    ids = np.arange(start, start + 2 * length).reshape(2, length)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def prefill(feeds):
    ids = feeds["input_ids"]
    return {"logits": ids[..., None] * 1.0, "present.0.key": ids[:, None, :, None] * 1.0}


@pytest.mark.parametrize(("length", "cut"), [(2, 1), (BEGINNING, 2), (4 * BEGINNING + 1, 4)])
def test_the_first_eighth_goes_into_the_caches(length, cut):
    found = Handover(prefill).sample(text(length))
    assert found["past_key_values.0.key"].shape == (2, 1, cut, 1)
    assert found["input_ids"].tolist() == text(length)["input_ids"][:, cut:].tolist()
    assert found["attention_mask"].shape == (2, length)


def test_samples_keep_their_half_and_single_tokens_are_left_out():
    scoring, held_out = (text(9), text(1)), (text(12, 100),)
    found = Handover(prefill).calibration(CalibrationData(scoring, held_out, is_held_out=True))
    assert [len(half) for half in (found.scoring, found.held_out)] == [1, 1]
    assert found.is_held_out
    assert found.held_out[0]["input_ids"][0, 0] == 102
    assert Handover(prefill).calibration(CalibrationData((text(1),), held_out, is_held_out=True)) is None
    assert Handover(prefill).calibration(None) is None


def test_a_metric_sees_the_original_on_the_beginning_and_the_program_on_the_rest():
    seen = []

    def metric(run):
        for length in (17, 1):
            found = run(text(length))["logits"]
            assert found.shape == (2, length, 1)
            seen.append((found[..., 0] == text(length)["input_ids"]).sum())
        return 0.5

    def decode(feeds):
        assert feeds["past_key_values.0.key"].shape[2] == 2
        return {"logits": -1.0 - feeds["input_ids"][..., None]}

    assert Handover(prefill).metric(metric)(decode) == 0.5
    assert seen == [4, 2]
