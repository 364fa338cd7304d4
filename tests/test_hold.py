"""Holding a plan to its budget (rewriter/hold.py), with a solver and a gate that only say what they are asked."""

from dataclasses import replace
from types import SimpleNamespace

from szilard.cost_model.plan import Choice, Option
from szilard.rewriter.apply import Applied
from szilard.rewriter.hold import hold_to_budget, without_undone
from szilard.rewriter.solve import Solution

ERRORS = {"leave": 0.0, "fused_attention": 0.0, "keyed_attention": 0.0, "int8_static": 0.01, "int8_weight": 0.001}


def choice(site, action, *others):
    options = tuple(Option(name, 1.0, 1.0, "measured", ERRORS[name]) for name in ("leave", action, *others))
    return Choice(site, "any", action, options, (site,), "onnxruntime", "")


def held(choices, decide, rewrite, errors, predicted=None):
    """`errors` in turn are what the checks on held-out data measure, against a budget of 1."""
    measured = iter(errors)
    gate = SimpleNamespace(
        metric_before=None,
        held_out=lambda graph: (next(measured), None),
        excess=lambda error, metric, choices: error,
    )
    extra = {"predicted": predicted} if predicted else {}
    return hold_to_budget(Solution(tuple(choices), 0.0, 0.0, 0.0), rewrite, decide, gate, **extra)


def as_they_are(solution):
    return Applied("graph", solution.choices, (), (), ())


def test_what_no_pass_could_make_is_refused_and_the_next_best_is_taken():
    choices = [choice("attention", "keyed_attention", "fused_attention"), choice("linear", "int8_static", "int8_weight")]

    def rewrite(solution):
        found = [
            replace(c, action="fused_attention", reason="Left: no columns.") if c.action == "keyed_attention" else c
            for c in solution.choices
        ]
        return Applied("graph", tuple(found), (), (), ())

    def decide(limit, undone):
        able = [without_undone(c, undone) for c in choices]
        kept = {c.site: [o for o in c.options if not o.reason and o.error <= limit] for c in able}
        return Solution(tuple(replace(c, action=kept[c.site][1].action) for c in able), 0.0, 0.0, 0.0)

    found = held(choices, decide, rewrite, [2.0, 0.5])
    assert [c.action for c in found.choices] == ["fused_attention", "int8_weight"]
    assert found.undone == {("any", "attention", "keyed_attention"): "no columns."}


def test_the_limit_counts_what_conversions_add():
    limits = []

    def decide(limit, undone):
        limits.append(limit)
        return Solution((choice("linear", "int8_weight"),), 0.0, 0.0, 0.125)

    found = held([choice("linear", "int8_static")], decide, as_they_are, [2.0, 0.5], lambda choices: 0.05)
    assert limits == [0.025]
    assert found.gap == 0.125
