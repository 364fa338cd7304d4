"""Errors of pairs: measured together they are near their sum, and the report says how near. Covers score_estimates.py too."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import szilard
from szilard.cost_model.device import load_device
from szilard.cost_model.plan import Budget, Choice, Phase, Plan, Workload
from szilard.kernels.quantized_linear import formats
from szilard.rewriter import backend_torch, score_estimates
from szilard.rewriter.additivity import Additivity, additivity
from szilard.rewriter.backend_onnx import OnnxBackend
from szilard.rewriter.backend_torch import TorchBackend
from szilard.rewriter.calibration_data import CalibrationData
from szilard.rewriter.optimise import Request
from szilard.rewriter.score import Score, score_linears
from szilard.rewriter.score_estimates import estimated_scores
from szilard.rewriter.trace_torch import trace_module

from .test_score_fisher import Case, Stack
from .tiny_models import Block, samples, set_clock

FORMATS = ("int8_dynamic", "int8_weight")


@pytest.mark.long
def test_pairs_are_near_their_sums_and_the_same_on_every_run():
    case = Case()
    with case.backend.probe(case.graph, [], []) as probe:
        scores = score_linears(dict.fromkeys(case.groups, FORMATS), case.net, probe, case.samples)
    found = additivity(case.graph, case.net, case.groups, scores, case.backend, case.samples)
    assert len(found.apart) == len(found.together) == 8
    low, high = found.ratios
    assert 0.5 < low <= high < 2
    assert found.rank_correlation > 0.8
    assert found.to_json()["pairs"] == 8
    assert "8 random pairs" in str(found)
    assert additivity(case.graph, case.net, case.groups, scores, case.backend, case.samples) == found
    one = {key: score for key, score in scores.items() if key[0] == case.groups[0].id}
    assert additivity(case.graph, case.net, case.groups, one, case.backend, case.samples) is None
    remembered = {key: Score(score.error, {}, remembered=True) for key, score in scores.items()}
    assert additivity(case.graph, case.net, case.groups, remembered, case.backend, case.samples) is None


def test_ratios_and_ranks():
    found = Additivity((1.0, 2.0, 3.0, 4.0), (2.0, 1.0, 3.0, 4.0))
    assert found.ratios == (0.5, 2.0)
    assert found.rank_correlation == pytest.approx(0.8)


def program():
    x = np.random.default_rng(0).standard_normal((40, 7, 24)).astype(np.float32)
    made = trace_module(Stack().eval(), {"x": torch.from_numpy(x)})
    data = tuple({made.inputs[0]: x + number} for number in range(4))
    workload = Workload((Phase("40x7", {made.inputs[0]: x.shape}),))
    held_back = CalibrationData(data[:3], data[3:], True)
    return made, Request(load_device("cpu"), workload, Budget(), held_back, False, None, None, None)


def test_only_where_runs_are_dear_are_errors_estimated(monkeypatch, tmp_path):
    made, request = program()
    backends = TorchBackend(made), OnnxBackend()
    monkeypatch.setattr(backend_torch, "multiplies_bfloat16", lambda: True)
    assert estimated_scores(made, backends, request) == {}
    monkeypatch.setattr(score_estimates, "MOST_WORK", 0.0)
    assert estimated_scores(made, backends, replace(request, calibration=None)) == {}
    said = []
    assert estimated_scores(made, backends, replace(request, only=frozenset({"attention"})), said.append) == {}
    assert estimated_scores(made, backends, replace(request, exclude=("*",)), said.append) == {}
    assert not said
    locked = Choice("ups.0", "linear", "int8_weight", (), ("ups.0",), "torch", "")
    plan = Plan("cpu", request.workload, Budget(), (locked, replace(locked, site="downs.0", action="leave")))
    few = estimated_scores(made, backends, replace(request, include=("ups.0", "downs.0"), plan=plan))
    assert few.keys() == {("ups.0", "int8_weight")}
    request = replace(request, scores=tmp_path)
    first = estimated_scores(made, backends, request, said.append)
    assert {name for _, name in first} == {*formats.FORMATS, "bfloat16"}
    assert len({group for group, _ in first}) == 7
    assert all(score.remembered and 0 < score.error < 1 for score in first.values())
    assert "scored by gradients" in said[0]
    assert len(said) == 1 + len(first)
    said.clear()
    again = estimated_scores(made, backends, request, said.append)
    assert len(said) == 1
    assert {k: s.error for k, s in again.items()} == {k: s.error for k, s in first.items()}


@pytest.mark.long
def test_a_model_planned_from_estimates_keeps_its_budget(monkeypatch):
    set_clock(
        monkeypatch, {"leave": 1e-3, "int8_static": 3e-4, "int8_dynamic": 4e-4, "int8_weight": 9e-4, "int4_weight": 9.5e-4}
    )
    monkeypatch.setattr(score_estimates, "MOST_WORK", 0.0)
    measured = []
    monkeypatch.setattr("szilard.rewriter.decide.score_linears", lambda wanted, *rest: measured.append(wanted) or {})
    data = samples()
    result = szilard.rewrite(Block().eval(), {"x": torch.from_numpy(data[0]["x"])}, calibration=data, budget=0.02)
    assert measured == []
    assert any(c.action.startswith("int8") for c in result.plan.choices)
    assert 0 < result.report["error"]["measured"] <= 0.02
