"""The last gate: a rewrite that made the whole model slower is taken back, unless it surely did not or a user locked it."""

import numpy as np
import pytest

import szilard
from szilard.cost_model.errors import InputError
from szilard.cost_model.plan import Phase
from szilard.cost_model.program import Program
from szilard.rewriter import rewrite as front
from szilard.rewriter.whole import phase_feeds, require_runs

from .tiny_models import block_model, samples, set_clock

FAST = {"leave": 1e-3, "int8_static": 2e-4, "sum_layer_norm": 5e-4}


def rows(before: float, after: float, low: float) -> dict:
    return {"3x5x48": {"before": before, "after": after, "ratio": after / before, "low": low, "high": after / before}}


@pytest.mark.parametrize(("after", "low", "changed"), [(0.5, 0.4, True), (1.5, 0.9, True), (1.5, 1.2, False)])
def test_slower_rewrites_are_taken_back(monkeypatch, after, low, changed):
    set_clock(monkeypatch, FAST, default=5e-3)
    monkeypatch.setattr(front, "measured_seconds", lambda each, request: rows(1.0, after, low))
    result = szilard.rewrite(block_model(), calibration=samples(), workload=["3x5x48"])
    assert result.optimised[0].changed is changed
    assert bool(result.report["rolled_back"]) is not changed
    assert result.report["seconds"]["after"] == (after if changed else 1.0)
    if not changed:
        assert {c.action for c in result.plan.choices} == {"leave"}
        assert "whole took" in result.plan.choices[0].reason
        assert result.before == result.after


def test_a_locked_plan_is_obeyed_even_if_slower(monkeypatch):
    set_clock(monkeypatch, FAST, default=5e-3)
    plan = szilard.rewrite(block_model(), calibration=samples(), workload=["3x5x48"]).plan
    monkeypatch.setattr(front, "measured_seconds", lambda each, request: rows(1.0, 9.0, 8.0))
    assert szilard.rewrite(block_model(), calibration=samples(), workload=["3x5x48"], plan=plan).optimised[0].changed


def test_feeds_repeat_the_sample():
    program = Program(None, "onnxruntime", {"ids": np.arange(6).reshape(2, 3)}, ("ids",), ("y",), {}, "test")
    assert phase_feeds(program, Phase("2x4", {"ids": (2, 4)}))["ids"].tolist() == [[0, 1, 2, 3], [4, 5, 0, 1]]


def test_a_phase_with_a_context_is_not_run_at_all():
    program = Program(None, "torch", {"ids": np.zeros((1, 3), np.int64)}, ("ids",), ("y",), {}, "m")
    prefill, decode = Phase("1x3", {"ids": (1, 3)}), Phase("8x1@33", {"ids": (8, 1)}, 1.0, 33)
    require_runs(program, prefill)
    with pytest.raises(InputError, match=r"^The phase 8x1@33 decodes with 33 positions in a cache that m was traced without"):
        require_runs(program, prefill, decode)
