"""Tests of benchmarks/attention_onnx.py and attention_forms.py: their files and figures on a small case; nothing here asserts a time."""

import json

import numpy as np
import pytest

from szilard.benchmarks import attention_onnx
from szilard.benchmarks.attention_forms import FUSED, MODULE, NAIVE, NAIVE_ONNX, OURS, TORCH
from szilard.benchmarks.attention_onnx import cases, clustered, compare


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setattr(attention_onnx, "CALIBRATION", 512)
    monkeypatch.setattr(attention_onnx, "DENSITIES", {512: 5 / 8, 1024: 5 / 16})
    return cases(tmp_path, [8], [512, 1024], heads=2, threads=1)


def test_the_forms_compute_the_same_attention(small):
    outputs = {}
    for form in (OURS, MODULE, FUSED, TORCH, NAIVE, NAIVE_ONNX):
        with small[0].opened(form) as call:
            outputs[form] = call()
    outputs[FUSED] = outputs[FUSED].reshape(1, 512, 2, 8).transpose(0, 2, 1, 3)
    for form in (FUSED, NAIVE, NAIVE_ONNX):
        np.testing.assert_allclose(outputs[form], outputs[TORCH], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(outputs[OURS], outputs[MODULE], rtol=1e-3, atol=1e-4)
    assert 1e-4 < np.linalg.norm(outputs[OURS] - outputs[TORCH]) / np.linalg.norm(outputs[TORCH]) < 0.5


def test_figures_of_one_run(small):
    result = json.loads(json.dumps(compare(small, heads=2, threads=1, rounds=2)))
    assert set(result["seconds"]["8x512"]) == {OURS, FUSED, TORCH}
    assert result["quality"]["8x1024"]["exact_tiles"] == 5
    assert result["quality"]["8x1024"]["density"] == pytest.approx(5 / 16)
    best = result["best_peer"]["8x512"]
    assert result["seconds"]["8x512"][best]["median"] == min(
        result["seconds"]["8x512"][form]["median"] for form in (FUSED, TORCH)
    )
    assert set(result["growth"]) == {"8x1024"}
    assert small[0].prepared.key_codebook is small[1].prepared.key_codebook


def test_draws_share_their_centres_and_nothing_else():
    first, again, other = (clustered(seed, 1, 2000, 8) for seed in (3, 3, 4))
    assert all((first[name] == again[name]).all() for name in "qkv")
    assert abs(first["v"] - other["v"]).max() > 1
    np.testing.assert_allclose(first["v"].mean(2), other["v"].mean(2), atol=0.15)
