"""Errors by weights alone, and whole rewrites without data: held to the budget on the sample inputs. Covers score_weights.py and
weight_columns.py."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import szilard
from szilard.cost_model.errors import InputError
from szilard.cost_model.sites import EmbeddingSite
from szilard.kernels.quantized_linear.formats import prepare_group
from szilard.passes.find import find
from szilard.rewriter import backend_torch, weight_columns
from szilard.rewriter import rewrite as rewrite_module
from szilard.rewriter.backend import groups_of
from szilard.rewriter.calibration_data import relative_error
from szilard.rewriter.command_line import app
from szilard.rewriter.score import simulate_linear
from szilard.rewriter.score_weights import WEIGHT_FORMATS, by_weights, score_by_weights, white_error
from szilard.rewriter.weight_columns import Piece, columns

from .fx_graphs import cleaned, net_of, traced
from .tiny_models import Block, block_model, samples, set_clock

FAST_CODES = {"leave": 1e-3, "int8_weight": 6e-4, "int4_weight": 4e-4, "int8_static": 1e-4, "bfloat16": 3e-4}


@pytest.mark.parametrize("action", WEIGHT_FORMATS)
def test_the_error_is_that_of_outputs_for_white_inputs(action):
    draw = np.random.default_rng(0)
    weights = [draw.standard_normal((70, columns)).astype(np.float32) / 8 for columns in (9, 33)]
    biases = [draw.standard_normal(9).astype(np.float32), None]
    x = np.random.default_rng(1).standard_normal((3000, 70)).astype(np.float32)
    wanted = [x @ w if b is None else x @ w + b for w, b in zip(weights, biases, strict=True)]
    got = [simulate_linear(each, torch.from_numpy(x)).numpy() for each in prepare_group(action, weights, biases)]
    change = sum(float(np.square(a - b).sum()) for a, b in zip(got, wanted, strict=True))
    scale = sum(float(np.square(x @ w).sum()) for w in weights)
    parts = [Piece(None, 0, w, b) for w, b in zip(weights, biases, strict=True)]
    assert white_error(action, [parts]) == pytest.approx(change / scale, rel=0.1)


def test_a_layer_of_zeros_has_no_error():
    assert white_error("int8_weight", [[Piece(None, 0, np.zeros((8, 3), np.float32), None)]]) == 0.0


def test_large_weights_come_some_columns_at_a_time(monkeypatch):
    program = traced(Block().eval(), torch.randn(3, 5, 48))
    net = net_of(cleaned(program), program)
    (up, *_) = [group.linears for group in groups_of(find(net).sites) if group.linears and group.linears[0].out_features == 96]
    whole = list(columns(up, net))
    monkeypatch.setattr(weight_columns, "NUMBERS_AT_ONCE", 48 * 7)
    pieces = list(columns(up, net))
    assert [part.weight.shape for (part,) in pieces] == [(48, 7)] * 13 + [(48, 5)]
    np.testing.assert_array_equal(np.concatenate([part.weight for (part,) in pieces], 1), whole[0][0].weight)
    np.testing.assert_array_equal(np.concatenate([part.bias for (part,) in pieces]), whole[0][0].bias)
    assert white_error("int8_weight", pieces) == pytest.approx(white_error("int8_weight", whole), rel=1e-5)


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
    error = result.report["error"]
    assert 0 < error["measured"] <= 0.02
    assert (error["data_free"], error["calibrated"], error["held_out"]) == (True, False, False)
    assert {choice.option("int8_static").reason for choice in linears} == {
        "without calibration data its error cannot be known; give --calib instead of --data-free"
    }
    reference = szilard.rewrite(block_model(), exact=True).module
    fresh = samples(2, seed=9)
    assert relative_error([result.module(s) for s in fresh], [reference(s) for s in fresh]) < 0.02
    # The same plan can be asked for again, by the same evidence.
    again = szilard.rewrite(block_model(), data_free=True, plan=tmp_path / "out")
    assert [c.action for c in again.plan.choices] == [c.action for c in result.plan.choices]
    shown = " ".join(CliRunner().invoke(app, ["frontier", str(tmp_path / "out")]).stdout.split())
    assert "or on the sample inputs without any" in shown


def test_a_smaller_budget_takes_more_bits_and_is_held_on_the_sample(monkeypatch):
    set_clock(monkeypatch, FAST_CODES, default=5e-3)
    monkeypatch.setattr(backend_torch, "multiplies_bfloat16", lambda: True)
    taken = {}
    for budget in (1e-6, 3e-5, 0.02):
        result = szilard.rewrite(Block().eval(), (torch.randn(3, 5, 48),), data_free=True, budget=budget)
        taken[budget] = {c.action for c in result.plan.choices if c.runtime == "torch" and c.kind == "linear"}
        for part in result.report["runtimes"].values():
            assert part["error"]["measured"] <= budget
    assert taken == {1e-6: {"leave"}, 3e-5: {"bfloat16"}, 0.02: {"bfloat16"}}


def test_joules_are_reached_with_the_least_error_of_weights(monkeypatch):
    set_clock(monkeypatch, FAST_CODES, default=5e-3)
    monkeypatch.setattr(backend_torch, "multiplies_bfloat16", lambda: False)
    before = szilard.rewrite(block_model(), exact=True).before
    result = szilard.rewrite(block_model(), data_free=True, budget=szilard.Budget(joules=0.7 * before))
    assert result.after <= 0.7 * before
    assert {choice.action for choice in result.plan.choices if choice.kind == "linear"} & {"int8_weight", "int4_weight"}


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
    monkeypatch.setattr(weight_columns, "NUMBERS_AT_ONCE", 700)
    result = szilard.rewrite(Words().eval(), (torch.randint(0, 3000, (4, 5)),), data_free=True, budget=0.01)
    tables = [choice for choice in result.plan.choices if choice.kind == "embedding"]
    assert {choice.action for choice in tables} == {"int8_rows"}
    assert 0 < tables[0].after.error < 1e-4
    # The head reads sums of rows whose means partly cancel: a relative error grows there.
    assert 0.3 < result.report["error"]["measured"] / tables[0].after.error < 3


def test_a_table_that_no_format_holds_is_refused():
    program = traced(Words().eval(), torch.randint(0, 3000, (4, 5)))
    graph = cleaned(program)
    with torch.no_grad():
        next(each for each in graph.parameters() if each.shape == (3000, 96))[7, 3] = float("inf")
    net = net_of(graph, program)
    (group,) = (g for g in groups_of(find(net).sites) if isinstance(g.sites[0], EmbeddingSite))
    (found,) = score_by_weights({group: "int8_rows"}, net).values()
    assert found.error == float("inf")
    assert "not finite" in found.refusal


def test_on_cuda_the_module_alone_takes_formats_by_weights():
    torch.manual_seed(0)
    result = szilard.rewrite(nn.Linear(512, 512), (torch.randn(1, 512),), target="h200", data_free=True, budget=1e-3)
    taken = {choice.runtime: choice.action for choice in result.plan.choices}
    assert taken["torch"] == "int8_column_weight"
    assert by_weights(taken["torch"])
    assert not any(
        by_weights(o.action) and not o.reason for c in result.plan.choices if c.runtime == "onnxruntime" for o in c.options
    )


def test_a_metric_of_the_caller_stays_and_limits(monkeypatch):
    set_clock(monkeypatch, FAST_CODES, default=5e-3)
    x = np.random.default_rng(3).standard_normal((2, 5, 48)).astype(np.float32)
    result = szilard.rewrite(block_model(), data_free=True, budget=1e-9, metric=lambda run: float(run({"x": x})["y"].sum()))
    assert result.report["error"]["metric"] == "<lambda>"
    before, after = (result.report["error"][f"metric_{side}"] for side in ("before", "after"))
    assert before - after <= 1e-9


def test_data_and_metric_of_a_task_are_left_out(monkeypatch):
    set_clock(monkeypatch, FAST_CODES, default=5e-3)
    made = rewrite_module.programs_of

    def with_task(*given):
        found = made(*given)
        loaded = replace(found.parts[0].loaded, metric=lambda run: 1.0, metric_name="recall", calibration=samples())
        return replace(found, parts=(replace(found.parts[0], loaded=loaded),))

    monkeypatch.setattr(rewrite_module, "programs_of", with_task)
    kept = szilard.rewrite(block_model()).report["error"]
    assert (kept["metric"], kept["calibrated"]) == ("recall", True)
    left = szilard.rewrite(block_model(), data_free=True).report["error"]
    assert (left["metric"], left["calibrated"], left["data_free"]) == (None, False, True)


def test_it_contradicts_data_and_exactness():
    with pytest.raises(InputError, match="--data-free and --calib contradict"):
        szilard.rewrite(block_model(), data_free=True, calibration=samples())
    with pytest.raises(InputError, match="--data-free and --exact contradict"):
        szilard.rewrite(block_model(), data_free=True, exact=True)


def test_the_command_says_what_it_went_by(monkeypatch, tmp_path):
    import onnx_ir as ir

    set_clock(monkeypatch, FAST_CODES, default=5e-3)
    ir.save(block_model(), tmp_path / "model.onnx")
    for options, said in (["--data-free"], "choices go by the weights alone"), ([], "only exact rewrites"):
        asked = ["rewrite", str(tmp_path / "model.onnx"), "--out", str(tmp_path / f"out{len(options)}"), *options]
        shown = CliRunner().invoke(app, asked)
        assert shown.exit_code == 0
        assert said in " ".join(shown.stdout.split())
