"""What is kept of each scored head; an attention of which no head can be sparse is left with a sentence, and never applied."""

import math
from dataclasses import replace

import pytest
import torch

import szilard
from szilard.cost_model.errors import BudgetError
from szilard.cost_model.plan import Budget, Choice, Option
from szilard.kernels.spectral_attention import crossover, prepare
from szilard.kernels.spectral_attention.causal_prepare import CausalPrepared
from szilard.rewriter import score_attention
from szilard.rewriter.backend import Group
from szilard.rewriter.decide import decide
from szilard.rewriter.head_scores import ROWS, budgets_of, head_scores
from szilard.rewriter.score import Score

from .sparse_attention import planted, site
from .test_score_attention import Causal, clustered
from .tiny_models import set_clock

LENGTH = 640
SENTENCE = "no head keeps its outputs within 0.10 (relative) with fewer exact tiles"
DENSE = CausalPrepared((None,) * 4, 8**-0.5, errors=(0.0,) * 4)


def text(heads: tuple[int, int], length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(length)
    query, key, value = (torch.randn((1, count, length, 8), generator=random) for count in (*heads, heads[1]))
    return query, key, value


def test_causal_heads_keep_worst_median_and_best_of_those_that_leave_something_out():
    budgets = (4, None, 8, 600, 2, 16)
    texts = [text((6, 3), 320), text((6, 3), 3000)]
    made = CausalPrepared(budgets, 0.5, errors=(0.05, 0.0, 0.09, 0.1, 0.01, 0.03))
    found = head_scores(made, texts, 0.1, 4096)
    assert (found.budgets, found.causal, found.tile, found.length) == (budgets, True, 16, 4096)
    assert found.density == pytest.approx(CausalPrepared(budgets, 0.5).density(4096))
    assert [sample.head for sample in found.samples] == [2, 5, 4]
    assert found.errors[2] == pytest.approx(0.09)
    assert found.refusal == ""
    for sample in found.samples:
        assert sample.every == 1
        assert torch.equal(sample.query, texts[1][0][0, sample.head, :ROWS])
        assert torch.equal(sample.key, texts[1][1][0, sample.head // 2, :ROWS])


def test_other_heads_are_thinned_and_a_budget_of_all_tiles_is_dense():
    length = 2 * ROWS + 2
    query, key, value = (torch.from_numpy(each) for each in planted(1, 1, 2, length, 8, 8))
    made = prepare.prepare(query[0].numpy(), key[0].numpy(), length=length, scale=0.3)
    tiles = -(-length // made.tile)
    made = replace(made, budget=(tiles, 3), errors=(1e-7, 0.07))
    assert budgets_of(made, length) == (None, 3)
    found = head_scores(made, [(query, key, value)], 0.1, length)
    assert found.density == pytest.approx((1 + 3 / tiles) / 2)
    assert found.errors == (0.0, 0.07)
    (sample,) = found.samples
    assert (sample.head, sample.every) == (1, 3)
    assert torch.equal(sample.query, query[0, 1, ::3])
    assert len(sample.key) <= ROWS
    assert replace(found, budgets=(None, None)).refusal


def decided(budgets, locked=False):
    """What is done at an attention with those scores."""
    texts = [text((4, 2), LENGTH)]
    heads = head_scores(CausalPrepared(budgets, 0.3, errors=(0.05,) * 4), texts, 0.1, LENGTH)
    options = Option("leave", 2.0, 0.2, "measured"), Option("spectral_sparse", 1.0, 0.1, "measured", 0.0, (0.5, 1.5))
    action = "spectral_sparse" if locked else "leave"
    choice = Choice("y", "attention", action, options, ("y",), "torch", "", locked)
    groups = [Group("y", "attention", (site(LENGTH, id="y", causal=True),))]
    known = {("y", "spectral_sparse"): Score(math.inf if heads.refusal else 0.001, {}, heads)}
    solution, _ = decide(None, None, groups, [choice], None, Budget(), None, 0.0, known)
    return solution.choices[0]


def test_scores_that_leave_every_head_dense_refuse_the_option():
    assert decided((2, None, None, 4)).action == "spectral_sparse"
    left = decided((None,) * 4)
    assert left.action == "leave"
    assert left.option("spectral_sparse").reason == SENTENCE
    assert left.option("leave").reason == ""
    assert decided((2, None, None, 4), locked=True).locked
    with pytest.raises(BudgetError, match="no head keeps its outputs within"):
        decided((None,) * 4, locked=True)


def rewritten(monkeypatch, prepared, **options):
    monkeypatch.setattr(crossover, "costs", lambda *_, **__: (2.0, 1.0))
    set_clock(monkeypatch, {"leave": 1.0, "spectral_sparse": 0.1}, default=2.0)
    monkeypatch.setattr(score_attention, "_causal", lambda site, _: prepared)
    data = [{"x": clustered(LENGTH, seed)} for seed in range(2)]
    return szilard.rewrite(Causal(False), {"x": torch.from_numpy(data[0]["x"])}, calibration=data, **options)


@pytest.mark.long
def test_an_attention_whose_heads_all_stay_dense_is_left_with_a_sentence(monkeypatch):
    monkeypatch.setattr(score_attention.causal_torch_module, "run", lambda *_: pytest.fail("A dense site was run as sparse."))
    result = rewritten(monkeypatch, DENSE)
    choices = [choice for choice in result.plan.choices if choice.kind == "attention"]
    assert {choice.runtime for choice in choices} == {"torch", "onnxruntime"}
    for choice in choices:
        assert choice.action == "leave"
        assert SENTENCE in choice.reason
        assert choice.option("spectral_sparse").reason == SENTENCE
    assert not result.report["rolled_back"]
    assert not result.optimised[0].changed
    rows = result.report["attention"]
    assert [row["reason"] for row in rows] == [f"N{SENTENCE[1:]}."] * 2
    assert {(head["budget"], head["error"]) for row in rows for head in row["heads"]} == {(None, 0.0)}
    assert result.report["spectral"] == []


@pytest.mark.long
def test_a_plan_that_asks_for_it_is_refused_with_that_sentence(monkeypatch):
    taken = rewritten(monkeypatch, CausalPrepared((16, 24, None, 24), 8**-0.5, errors=(0.1, 0.1, 0.0, 0.1))).plan
    assert {choice.action for choice in taken.choices if choice.kind == "attention"} == {"spectral_sparse"}
    with pytest.raises(BudgetError, match="no head keeps its outputs within"):
        rewritten(monkeypatch, DENSE, plan=taken)
