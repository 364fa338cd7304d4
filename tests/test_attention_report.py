"""The rows of report.json about attention: why a site is dense, which heads are looked at, and evidence beside the decision."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from szilard.cost_model.plan import Choice, Option
from szilard.cost_model.spectral import attention_walk, spectrum
from szilard.kernels.spectral_attention.causal_prepare import CausalPrepared
from szilard.kernels.spectral_attention.prepare import prepare
from szilard.rewriter.attention_evidence import HEADS, Sampled, picked, spectral_evidence
from szilard.rewriter.attention_report import attention_report, why_dense
from szilard.rewriter.head_scores import HeadScores, head_scores
from szilard.rewriter.score import Score

from .causal_attention import SMALL, operands
from .sparse_attention import planted, site

LEAVE = Option("leave", 2.0, 0.2, "measured")
SPARSE = Option("spectral_sparse", 1.0, 0.1, "measured", 0.01, (0.5, 1.5))
LENGTH = 120


def choice(action="leave", reason="Left: over the budget.", *options: Option) -> Choice:
    return Choice("y", "attention", action, (LEAVE, *options), ("y",), "torch", reason)


def causal_score(budgets=(2, None, 3, 1), error=0.01) -> Score:
    query, key, value = operands(0, 1, (4, 2), LENGTH, 8, 8)
    made = CausalPrepared(budgets, 0.4, SMALL, (0.05, 0.0, 0.09, 0.02))
    return Score(error, {"y": made}, head_scores(made, [(query, key, value)], 0.1, LENGTH))


def test_why_an_attention_is_dense():
    assert why_dense(choice("leave", "Left: over the budget.", SPARSE)) == "Left: over the budget."
    refused = replace(SPARSE, reason="no head keeps its outputs within 0.10 (relative) with fewer exact tiles")
    assert why_dense(choice("leave", "", refused)) == f"N{refused.reason[1:]}."
    assert why_dense(choice("leave", "", replace(SPARSE, joules=2.2))) == (
        "Spectral_sparse costs 10% more joules (modelled, measured seconds)."
    )
    assert "not offered" in why_dense(choice())
    fused = Option("fused_attention", 0.5, 0.1, "measured")
    assert why_dense(choice("fused_attention", "It pays.", SPARSE, fused)) == "fused_attention was taken instead. It pays."


def test_rows_tell_runtimes_apart_and_heads_where_they_were_scored():
    found = SimpleNamespace(sites=(site(LENGTH, id="y", causal=True),))
    sparse = SimpleNamespace(
        choices=(choice("spectral_sparse", "It pays.", SPARSE),), found=found, scores={("y", "spectral_sparse"): causal_score()}
    )
    dense = SimpleNamespace(choices=(replace(choice(), runtime="onnxruntime"),), found=found, scores={})
    report = attention_report([sparse, dense])
    first, second = report["attention"]
    assert (first["runtime"], first["action"], first["reason"], first["tile"]) == ("torch", "spectral_sparse", "It pays.", 2)
    assert first["heads"][1] == {"head": 1, "budget": None, "error": 0.0}
    assert first["heads"][2] == {"head": 2, "budget": 3, "error": pytest.approx(0.09)}
    assert 0 < first["density"] < 1
    assert (second["heads"], second["density"], second["action"]) == ([], None, "leave")
    assert {row["site"] for row in report["spectral"]} == {"y"}


def test_evidence_stands_beside_error_decision_and_advice():
    score = causal_score()
    rows = spectral_evidence({("y", "spectral_sparse"): score}, ["y"])
    assert [(row["head"], row["budget"], row["decision"]) for row in rows] == [
        (2, 3, "sparse"),
        (0, 2, "sparse"),
        (3, 1, "sparse"),
    ]
    assert rows[0]["error"] == pytest.approx(0.09)
    for row in rows:
        assert (row["tokens"], row["clusters"], row["advice"], row["causal"]) == (LENGTH, 10, "dense", True)
        assert row["pairs"] == LENGTH * (LENGTH + 1) // 2
        assert 0 < row["density"] < 1
    assert rows[0]["density"] > rows[2]["density"]
    assert [row["decision"] for row in spectral_evidence({("y", "spectral_sparse"): score}, [])] == ["dense"] * 3
    assert spectral_evidence({("y", "spectral_sparse"): replace(score, heads=None)}, []) == []


def test_heads_that_look_both_ways_are_thinned_with_their_tiles(monkeypatch):
    monkeypatch.setattr("szilard.rewriter.head_scores.ROWS", 100)
    query, key, value = (torch.from_numpy(each) for each in planted(1, 1, 1, 4 * 96, 8, 8, clusters=6))
    made = replace(prepare(query[0].numpy(), key[0].numpy(), length=384, scale=0.3, tile=32), budget=(2,), errors=(0.05,))
    score = Score(0.01, {"y": made}, head_scores(made, [(query, key, value)], 0.1, 5000))
    (row,) = spectral_evidence({("y", "spectral_sparse"): score}, ["y"])
    assert (row["every"], row["tokens"], row["pairs"]) == (4, 96, 96**2)
    # Two of twelve tiles of eight keys are exact, and ten stand for theirs.
    assert row["edges"] == 96 * (2 * 8 + 10)
    walk = attention_walk((0.3 * query[0, 0, ::4]).numpy(), key[0, 0, ::4].numpy())
    assert row["dense"]["eigenvalues"] == pytest.approx(spectrum(walk, 9).values.tolist())


def one_head(query: torch.Tensor, key: torch.Tensor) -> dict:
    """The row of a head that looks both ways, of queries and keys [64, 64] and two exact tiles of eight keys."""
    text = query[None, None], key[None, None], key[None, None]
    made = replace(prepare(query[None].numpy(), key[None].numpy(), length=64, scale=1.0, tile=8), budget=(2,), errors=(0.05,))
    score = Score(0.01, {"y": made}, head_scores(made, [text], 0.1, 64))
    (row,) = spectral_evidence({("y", "spectral_sparse"): score}, ["y"])
    return row


def test_a_head_without_a_spectrum_says_why():
    """All tokens look at the first alone."""
    first = torch.zeros(64, 64)
    first[:, 0] = 100.0
    row = one_head(first, 100 * torch.eye(64))
    assert "dense" not in row
    assert "never comes back" in row["reason"]


def test_tokens_that_look_at_themselves_alone_never_mix():
    row = one_head(100 * torch.eye(64), 100 * torch.eye(64))
    assert row["dense"]["gap"] == pytest.approx(0, abs=1e-9)
    assert row["dense"]["mixing_steps"] is None
    assert row["advice"] == "dense"


@pytest.mark.parametrize("sites", [1, 2, 5, 30])
def test_at_most_six_heads_worst_best_and_spread(sites):
    random = np.random.default_rng(sites)
    known = []
    for number in range(sites):
        errors = tuple(random.random(3))
        heads = HeadScores((1, 1, 1), errors, 0.1, 16, 64, 0.1, True, ())
        known += [Sampled(f"layer {number:02d}", heads, SimpleNamespace(head=head), None) for head in range(3)]
    chosen = picked(known)
    assert len(chosen) == min(HEADS, 3 * sites)
    errors = [each.error for each in known]
    assert {max(errors), min(errors)} <= {each.error for each in chosen}
    assert [known.index(each) for each in chosen] == sorted(known.index(each) for each in chosen)
    if sites == 30:
        assert len({each.site for each in chosen}) >= 5
    assert picked([]) == []
