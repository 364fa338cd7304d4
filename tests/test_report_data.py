"""The floor of a token in a report: only of a language model whose likelihood was measured, per token of the workload."""

from types import SimpleNamespace

import pytest

from szilard.cost_model.landauer import landauer_joules
from szilard.cost_model.plan import Budget, Phase, Workload
from szilard.rewriter.report_data import LIKELIHOOD, _token

LOG_16 = 2.772588722239781


def found(metric, name=LIKELIHOOD, inputs="input_ids"):
    phases = Phase("2x8", {inputs: (2, 8)}, 0.75), Phase("1x4", {inputs: (1, 4)}, 0.25)
    request = SimpleNamespace(workload=Workload(phases), budget=Budget(metric=name))
    choices = (SimpleNamespace(after=SimpleNamespace(joules=0.75)),)
    return _token(SimpleNamespace(metric=metric, elsewhere=(0.45, 0.0), conversions=(0.1, 0.0), choices=choices), request)


def test_a_token_has_the_floor_of_its_bits():
    token = found((-2.0, -LOG_16))
    assert token["perplexity"] == pytest.approx(16)
    assert token["joules"] == pytest.approx(1.3 / 13)
    assert token["landauer_joules"] == pytest.approx(landauer_joules(4))
    assert token["gap"] == pytest.approx(0.1 / landauer_joules(4))


def test_what_is_no_language_model_has_none():
    assert found(None) is None
    assert found((-2.0, -LOG_16), name="recall@1") is None
    assert found((-2.0, 0.0)) is None
    assert found((-2.0, -LOG_16), inputs="pixels") is None


def test_a_model_that_knows_nothing_has_a_finite_floor():
    assert found((-2.0, -1e5))["gap"] > 0
