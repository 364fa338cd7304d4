"""What is kept of each scored head; an attention of which no head can be sparse is left with a sentence, and never applied."""

from dataclasses import replace

import pytest
import torch

import szilard
from szilard.cost_model.errors import BudgetError
from szilard.kernels.spectral_attention import causal_prepare, crossover, prepare
from szilard.kernels.spectral_attention.causal_prepare import CausalPrepared
from szilard.rewriter import score_attention
from szilard.rewriter.head_scores import ROWS, budgets_of, head_scores

from .sparse_attention import planted
from .test_score_attention import Causal, clustered
from .tiny_models import set_clock

LENGTH = 640


def text(heads: tuple[int, int], length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(length)
    query, key, value = (torch.randn((1, count, length, 8), generator=random) for count in (*heads, heads[1]))
    return query, key, value


def test_causal_heads_keep_worst_median_and_best_of_those_that_leave_something_out():
    budgets = (4, None, 8, 600, 2, 16)
    texts = [text((6, 3), 320), text((6, 3), 3000)]
    errors = torch.tensor([0.05, 0.0, 0.09, 0.1, 0.01, 0.03])
    found = head_scores(CausalPrepared(budgets, 0.5), errors, texts, 0.1, 4096)
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
    made = replace(made, budget=(tiles, 3))
    assert budgets_of(made, length) == (None, 3)
    found = head_scores(made, torch.tensor([0.0, 0.07]), [(query, key, value)], 0.1, length)
    assert found.density == pytest.approx((1 + 3 / tiles) / 2)
    (sample,) = found.samples
    assert (sample.head, sample.every) == (1, 3)
    assert torch.equal(sample.query, query[0, 1, ::3])
    assert len(sample.key) <= ROWS
    assert replace(found, budgets=(None, None)).refusal


def rewritten(monkeypatch, prepared, **options):
    monkeypatch.setattr(crossover, "costs", lambda *_, **__: (2.0, 1.0))
    set_clock(monkeypatch, {"leave": 1.0, "spectral_sparse": 0.1}, default=2.0)
    monkeypatch.setattr(score_attention, "_causal", lambda site, _: prepared)
    data = [{"x": clustered(LENGTH, seed)} for seed in range(2)]
    return szilard.rewrite(Causal(False), {"x": torch.from_numpy(data[0]["x"])}, calibration=data, **options)


def test_an_attention_whose_heads_all_stay_dense_is_left_with_a_sentence(monkeypatch):
    monkeypatch.setattr(score_attention.causal_torch_module, "run", lambda *_: pytest.fail("A dense site was run as sparse."))
    result = rewritten(monkeypatch, CausalPrepared((None,) * 4, 8**-0.5))
    choices = [choice for choice in result.plan.choices if choice.kind == "attention"]
    assert {choice.runtime for choice in choices} == {"torch", "onnxruntime"}
    sentence = "no head keeps its outputs within 0.10 (relative) with fewer exact tiles"
    for choice in choices:
        assert choice.action == "leave"
        assert sentence in choice.reason
        assert choice.option("spectral_sparse").reason == sentence
    assert not result.report["rolled_back"]
    assert not result.optimised[0].changed


@pytest.mark.long
def test_a_plan_that_asks_for_it_is_refused_with_that_sentence(monkeypatch):
    taken = rewritten(monkeypatch, CausalPrepared((16, 24, None, 24), 8**-0.5)).plan
    assert {choice.action for choice in taken.choices if choice.kind == "attention"} == {"spectral_sparse"}
    with pytest.raises(BudgetError, match="no head keeps its outputs within"):
        rewritten(monkeypatch, CausalPrepared((None,) * 4, 8**-0.5), plan=taken)


@pytest.mark.long
def test_errors_are_of_each_head_over_the_texts(monkeypatch):
    made = CausalPrepared((2, 4, None, 2), 8**-0.5)
    scores = rewritten(monkeypatch, made).optimised[0].scores
    query = torch.from_numpy(clustered(LENGTH, 0)).reshape(1, LENGTH, 4, 8).transpose(1, 2)
    shared = query[:, :2].repeat_interleave(2, dim=1)
    dense = causal_prepare.dense_attention((query, shared, shared), made.scale)
    wanted = prepare.relative_errors(causal_prepare.simulate(made, (query, shared, shared)), dense)
    assert scores
    for score in scores.values():
        assert score.heads.errors == pytest.approx(wanted.tolist(), abs=1e-4)
        assert score.heads.errors[2] == pytest.approx(0, abs=1e-6)
