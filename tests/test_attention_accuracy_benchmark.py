"""Tests of benchmarks/attention_accuracy.py: its measures, its planted clusters, and both parts at a small size; no time is asserted."""

import json
from types import SimpleNamespace

import pytest
import torch

from szilard.benchmarks import attention_accuracy, attention_forms
from szilard.benchmarks.attention_accuracy import FORMS, dropped, planted, prepared_for, quality
from szilard.benchmarks.attention_forms import NAIVE


@pytest.fixture
def small(tmp_path, monkeypatch):
    for name, value in {
        "LENGTH": 256,
        "HEADS": 2,
        "WIDTH": 8,
        "CLUSTERS": 8,
        "EXACT_TILES": (2, 1),
        "RESULTS": tmp_path,
    }.items():
        monkeypatch.setattr(attention_accuracy, name, value)
    monkeypatch.setattr(attention_forms, "SECONDS", 1e-9)
    return tmp_path


def test_quality_is_of_heads_and_of_queries():
    dense = torch.tensor([[[[3.0, 4.0], [0.0, 2.0]], [[1.0, 0.0], [1.0, 0.0]]]])
    found = torch.tensor([[[[3.0, 4.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]]]])
    error, worst, cosine = quality([found], [dense])
    assert error == pytest.approx(0.5)
    assert worst == pytest.approx(0.9)
    assert cosine == pytest.approx((1 + 0.5) / 2)


def test_clusters_are_as_far_apart_as_they_say(small):
    queries, keys, _ = planted(1, 0.5)
    nearest = torch.cdist(queries, keys)
    assert float(nearest.min(-1).values.median()) < 1.2
    assert not torch.equal(planted(2, 0.5)[0], queries)
    queries, keys, _ = planted(1, 0.5, "tokens")
    assert torch.equal(queries, keys)


def test_dropping_the_rest_loses_more(small):
    operands, calibration = planted(1, 0.5), planted(2, 0.5)
    dense = torch.nn.functional.scaled_dot_product_attention(*operands)
    prepared = prepared_for(*calibration[:2], 1)
    kept = attention_accuracy.build(prepared)(*operands)
    assert quality([kept], [dense]).error < 0.7 * quality([dropped(prepared, *operands)], [dense]).error


def test_tables_of_both_parts(small, monkeypatch, capsys):
    heads = planted(3, 0.5), planted(4, 0.5)
    made = iter([[heads[0]], [heads[1]]])
    monkeypatch.setattr(attention_accuracy, "trained_heads", lambda text, segments: next(made))
    monkeypatch.setattr(attention_accuracy, "printed", lambda *operands: operands[2])
    attention_accuracy.main(["--rounds", "1", "--threads", "1", "--certify", "16"])
    printed = capsys.readouterr().out
    result = SimpleNamespace(**json.loads((small / "attention-accuracy-both.json").read_text()))
    assert set(result.planted["apart 0.5"]["seconds"]) == set(FORMS)
    assert result.planted["apart 0.5"]["times"][NAIVE]["median"] > 0
    assert "seconds" not in result.planted["tokens 2"]
    assert result.trained["spectral, 2 of 4 tiles exact"][0] <= result.trained["spectral, 1 of 4 tiles exact"][0]
    assert "of the 95 % intervals hold the error" in " ".join(printed.split())
