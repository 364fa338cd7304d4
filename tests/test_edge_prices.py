"""Whole rewrites of a small convolutional model: on codes where that pays with its conversions, and left where these cost too much. Covers
edge_prices.py and score_coded.py too."""

import numpy as np
import pytest

import szilard

from .onnx_graphs import kinds
from .test_onnx_quantize_conv import TEXT, graph, weights
from .tiny_models import set_clock


def rewritten(monkeypatch, conversion: float, **more):
    """The model whose integer convolutions take half the time, where each conversion takes `conversion` seconds."""
    set_clock(monkeypatch, {"leave": 1e-3, "fold_batch_norm": 1e-3, "int8_conv": 5e-4})
    clock = {"quantize": conversion, "dequantize": conversion}
    monkeypatch.setattr("szilard.rewriter.edge_prices.time_in_turn", lambda _, graphs: {name: [clock[name]] for name in graphs})
    random = np.random.default_rng(2)
    samples = [{"x": random.standard_normal((2, 3, 9, 7)).astype(np.float32)} for _ in range(8)]
    return szilard.rewrite(graph(TEXT, weights()), samples[0], calibration=samples, **more)


def test_cheap_conversions_put_the_chain_on_codes(monkeypatch):
    result = rewritten(monkeypatch, 1e-6)
    assert {choice.action for choice in result.plan.choices if choice.kind == "conv"} == {"int8_conv"}
    assert kinds(result.optimised[0].program.graph).count("QLinearConv") == 4
    assert 0 < result.report["error"]["measured"] < 0.02
    (done,) = result.optimised
    assert done.conversions[1] == pytest.approx(3e-6)
    assert result.after == pytest.approx(done.elsewhere[0] + done.conversions[0] + sum(c.after.joules for c in done.choices))


def test_dear_conversions_leave_it(monkeypatch):
    result = rewritten(monkeypatch, 1e-2)
    assert not [choice for choice in result.plan.choices if choice.action == "int8_conv"]
    assert any("conversions" in choice.reason for choice in result.plan.choices)


def test_a_plan_is_replayed(monkeypatch):
    first = rewritten(monkeypatch, 1e-6)
    second = rewritten(monkeypatch, 1e-2, plan=first.plan)
    assert [c.action for c in second.plan.choices] == [c.action for c in first.plan.choices]
