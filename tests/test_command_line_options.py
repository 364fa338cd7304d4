"""What options mean together, and which contradict each other."""

import math

import pytest

from szilard.cost_model.errors import InputError
from szilard.cost_model.plan import Budget
from szilard.rewriter.command_line_options import Task, budget_of, task_name, workload_of


@pytest.mark.parametrize(
    ("arguments", "budget"),
    [
        ((None, None, "", False), Budget(0.02)),
        ((0.5, None, "mine:recall", False), Budget(0.5, None, "mine:recall")),
        ((0.0, None, "", False), Budget(0.0)),
        ((None, 1.5, "", False), Budget(0.02, 1.5)),
        ((None, None, "", True), Budget(0.0)),
    ],
)
def test_budgets(arguments, budget):
    assert budget_of(*arguments) == budget


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0.1, 1.0, "", False), "--budget and --joules"),
        ((0.1, None, "", True), "--budget and --exact"),
        ((None, 1.0, "", True), "--joules and --exact"),
        ((-0.1, None, "", False), "--budget -0.1"),
        ((None, math.inf, "", False), "--joules inf"),
        ((None, 0.0, "", False), "--joules 0.0.*above zero"),
        ((math.nan, None, "", False), "--budget nan"),
    ],
)
def test_budgets_that_cannot_be(arguments, words):
    with pytest.raises(InputError, match=words):
        budget_of(*arguments)


def test_workloads(tmp_path):
    assert workload_of(None, None) is None
    assert workload_of(None, []) is None
    assert [p.name for p in workload_of(None, ["1x7", "9x2"]).phases] == ["1x7", "9x2"]
    path = tmp_path / "w.json"
    path.write_text('[{"shapes": {"ids": [4, 11]}}]')
    assert workload_of(path, None).phases[0].shapes == {"ids": (4, 11)}
    with pytest.raises(InputError, match="give one of them"):
        workload_of(path, ["1x7"])


def test_task_names_are_those_of_the_library():
    assert [task_name(task) for task in Task] == ["embed", "classify", "causal-lm", "none"]
    assert task_name(None) is None
