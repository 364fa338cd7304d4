"""The solver against brute force, its guards, locks and joule budgets."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.cost_model.errors import BudgetError
from szilard.cost_model.plan import Budget, Choice, Option
from szilard.rewriter.solve import solve, with_reasons


def choice(name: str, *options: tuple[str, float, float], locked: bool = False, action: str = "leave") -> Choice:
    made = tuple(Option(a, j, j, "measured", e, (j / 2, j)) for a, j, e in options)
    return Choice(name, "linear", action, made, (name,), "onnxruntime", "", locked)


numbers = st.floats(0.01, 1.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=3), min_size=1, max_size=4), st.floats(0, 2))
def test_equals_brute_force(groups, limit):
    choices = [
        choice(f"g{i}", ("leave", 1.0, 0.0), *((f"o{k}", j, e) for k, (j, e) in enumerate(options)))
        for i, options in enumerate(groups)
    ]
    solution = solve(choices, Budget(error=limit))
    feasible = [
        sum(o.joules for o in picks)
        for picks in itertools.product(*(c.options for c in choices))
        if sum(o.error for o in picks) <= limit and all(o.action == "leave" or o.joules < 1.0 for o in picks)
    ]
    assert solution.error <= limit * (1 + 1e-9)
    assert solution.joules == pytest.approx(min(feasible), rel=1e-5)


def test_nothing_that_costs_more_than_leaving_it():
    solution = solve([choice("g", ("leave", 1.0, 0.0), ("bad", 1.5, 0.0))], Budget())
    assert solution.choices[0].action == "leave"
    assert "50% more" in with_reasons(solution.choices, Budget())[0].reason


def test_an_uncertain_saving_is_not_taken_unless_measured():
    unsure = Option("int8_static", 0.9, 0.9, "roofline", 0.0, (-0.1, 0.3))
    leave = Option("leave", 1.0, 1.0, "roofline")
    made = Choice("g", "linear", "leave", (leave, unsure), ("g",), "onnxruntime", "")
    assert solve([made], Budget()).choices[0].action == "leave"
    assert "uncertain" in with_reasons([made], Budget())[0].reason


def test_locked_action_stays():
    made = choice("g", ("leave", 1.0, 0.0), ("big", 0.1, 5.0), locked=True, action="big")
    assert solve([made], Budget(error=0.01)).choices[0].action == "big"


def test_joule_budget_minimises_error_and_refuses_the_impossible():
    made = [choice("g", ("leave", 1.0, 0.0), ("half", 0.5, 0.1), ("tenth", 0.1, 0.5))]
    assert solve(made, Budget(joules=0.6)).choices[0].action == "half"
    assert solve(made, Budget(joules=2.0)).choices[0].action == "leave"
    with pytest.raises(BudgetError, match=r"cheapest plan known costs 0\.1"):
        solve(made, Budget(joules=0.05))
    with pytest.raises(BudgetError):
        solve(made, Budget(joules=0.3), joules_elsewhere=0.25)
