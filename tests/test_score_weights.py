"""Errors by weights alone, and whole rewrites without data: held to the budget on the sample inputs. Covers score_weights.py."""

import numpy as np
import pytest
import torch
from torch import nn

import szilard
from szilard.cost_model.errors import InputError
from szilard.kernels.quantized_linear.formats import prepare_group
from szilard.rewriter import score_weights
from szilard.rewriter.calibration_data import relative_error
from szilard.rewriter.score_weights import FORMATS, by_weights, white_error

from .tiny_models import Block, block_model, samples, set_clock

FAST_CODES = {"leave": 1e-3, "int8_weight": 6e-4, "int4_weight": 4e-4, "int8_static": 1e-4, "bfloat16": 3e-4}


def layers(seed=0):
    draw = np.random.default_rng(seed)
    weights = [draw.standard_normal((70, columns)).astype(np.float32) / 8 for columns in (9, 33)]
    return weights, [draw.standard_normal(9).astype(np.float32), None]


@pytest.mark.parametrize("action", FORMATS)
def test_the_error_is_that_of_outputs_for_white_inputs(action):
    weights, biases = layers()
    made = prepare_group(action, weights, biases)
    x = np.random.default_rng(1).standard_normal((3000, 70)).astype(np.float32)
    wanted = [x @ w if b is None else x @ w + b for w, b in zip(weights, biases, strict=True)]
    got = [score_weights.simulate_linear(each, torch.from_numpy(x)).numpy() for each in made]
    change = sum(float(np.square(a - b).sum()) for a, b in zip(got, wanted, strict=True))
    scale = sum(float(np.square(x @ w).sum()) for w in weights)
    assert white_error(made, weights, biases) == pytest.approx(change / scale, rel=0.1)


def test_a_layer_of_zeros_has_no_error():
    zeros = [np.zeros((8, 3), np.float32)]
    assert white_error(prepare_group("int8_weight", zeros, [None]), zeros, [None]) == 0.0


def test_what_needs_to_know_its_inputs_is_not_told_by_weights():
    assert all(by_weights(action) for action in ("int8_weight", "bfloat16", "int4_rows", "int4_group_weight_merged"))
    for action in (
        "int8_dynamic",
        "int8_static",
        "fp8_token",
        "float16",
        "low_rank_half",
        "spectral_sparse",
        "leave",
        "merged",
    ):
        assert not by_weights(action)


def test_without_data_the_weights_say_what_may_be_taken(monkeypatch, tmp_path):
    set_clock(monkeypatch, FAST_CODES, default=5e-3)
    result = szilard.rewrite(block_model(), data_free=True, budget=0.02, out=tmp_path / "out")
    linears = [choice for choice in result.plan.choices if choice.kind == "linear"]
    assert {choice.action for choice in linears} <= {"int8_weight", "int4_weight"}
    assert 0 < sum(choice.after.error for choice in linears) <= 0.02
    assert 0 < result.report["error"]["measured"] <= 0.02
    assert (result.report["error"]["data_free"], result.report["error"]["held_out"]) == (True, False)
    (reason,) = {choice.option("int8_static").reason for choice in linears}
    assert reason == "without calibration data its error cannot be known; give --calib"
    reference = szilard.rewrite(block_model(), exact=True).module
    fresh = samples(2, seed=9)
    assert relative_error([result.module(s) for s in fresh], [reference(s) for s in fresh]) < 0.02
    # The same plan can be asked for again, by the same evidence.
    again = szilard.rewrite(block_model(), data_free=True, plan=tmp_path / "out")
    assert [c.action for c in again.plan.choices] == [c.action for c in result.plan.choices]


def test_a_smaller_budget_takes_more_bits_and_is_held_on_the_sample(monkeypatch):
    set_clock(monkeypatch, FAST_CODES, default=5e-3)
    taken = {}
    for budget in (1e-6, 3e-5, 0.02):
        result = szilard.rewrite(Block().eval(), (torch.randn(3, 5, 48),), data_free=True, budget=budget)
        taken[budget] = {c.action for c in result.plan.choices if c.runtime == "torch" and c.kind == "linear"}
        for part in result.report["runtimes"].values():
            assert part["error"]["measured"] <= budget
    assert taken == {1e-6: {"leave"}, 3e-5: {"bfloat16"}, 0.02: {"bfloat16"}}


class Words(nn.Module):
    """ids [B, 5] -> [B, 7]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(3000, 96), nn.Linear(96, 7)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.words(ids).sum(1))


def test_tables_go_by_their_rows(monkeypatch):
    set_clock(monkeypatch, {"leave": 1e-3, "int8_rows": 5e-4}, default=5e-3)
    result = szilard.rewrite(Words().eval(), (torch.randint(0, 3000, (4, 5)),), data_free=True, budget=0.01)
    tables = [choice for choice in result.plan.choices if choice.kind == "embedding"]
    assert {choice.action for choice in tables} == {"int8_rows"}
    assert 0 < tables[0].after.error < 1e-4
    # The head reads sums of rows whose means partly cancel: a relative error grows there.
    assert 0.3 < result.report["error"]["measured"] / tables[0].after.error < 3


def test_it_contradicts_data_and_exactness():
    with pytest.raises(InputError, match="--data-free and --calib contradict"):
        szilard.rewrite(block_model(), data_free=True, calibration=samples())
    with pytest.raises(InputError, match="--data-free and --exact contradict"):
        szilard.rewrite(block_model(), data_free=True, exact=True)
