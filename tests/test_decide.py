"""Deciding: only errors that can change the plan are measured, and the plan is the one that all of them would give."""

from contextlib import contextmanager

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from szilard.cost_model.errors import BudgetError, InputError
from szilard.cost_model.plan import Budget, Choice, Option, Phase, Plan, Workload
from szilard.cost_model.sites import LinearSite
from szilard.kernels.quantized_linear.formats import FORMATS
from szilard.rewriter import decide as module
from szilard.rewriter.backend import groups_of
from szilard.rewriter.decide import decide, lock
from szilard.rewriter.score import Score
from szilard.rewriter.solve import solve

from .sparse_attention import site as attention_site


class Probes:
    """A backend that counts the probes it opened and keeps what they were opened for."""

    runtime = "onnxruntime"

    def __init__(self):
        self.opened = []

    @contextmanager
    def probe(self, graph, read, disturbed):
        self.opened.append((tuple(read), tuple(disturbed)))
        yield "probe"


class Data:
    scoring = ("sample",)


def linear(name: str) -> LinearSite:
    return LinearSite(name, (name,), f"{name}.x", f"{name}.w", "", f"{name}.y", 5, 3, False, 7, "float32", name)


def choice(name: str, *options: tuple[str, float], leave: float = 1.0, refused: str = "", kind: str = "linear") -> Choice:
    made = [Option(a, j, j, "measured", 0.0, (0.0, 1.0), f"{a} is slow" if a == refused else "") for a, j in options]
    return Choice(name, kind, "leave", (Option("leave", leave, leave, "measured"), *made), (name,), "onnxruntime", "")


def decided(monkeypatch, choices, errors, budget, known=None, groups=None):
    """(solution, scores, what was measured in order, the backend)."""
    backend, measured = Probes(), []

    def linears(wanted, net, probe, samples, progress, keep):
        keys = [(group.id, name) for group, names in wanted.items() for name in names]
        measured.extend(keys)
        found = {key: Score(errors[key], {key[0]: key[1]}) for key in keys}
        for key, score in found.items():
            keep(key, score)
        return found

    def attentions(wanted, probe, samples, progress):
        keys = [(group.id, "spectral_sparse") for group in wanted]
        measured.extend(keys)
        return {key: Score(errors[key], {}) for key in keys}

    monkeypatch.setattr(module, "score_linears", linears)
    monkeypatch.setattr(module, "score_attentions", attentions)
    groups = groups_of([linear(c.site) for c in choices]) if groups is None else groups
    solution, scores = decide(None, None, groups, choices, backend, budget, Data(), 0.0, known or {})
    return solution, scores, measured, backend


# Sixty-fourths: two plans tie exactly or differ by more than the solver's gap.
numbers = st.integers(1, 77).map(lambda n: n / 64)
tables = st.lists(
    st.lists(st.tuples(numbers, st.integers(0, 64).map(lambda n: n / 64)), min_size=1, max_size=4), min_size=1, max_size=5
)


@settings(max_examples=60, deadline=None)
@example([[(0.5, 1.0), (0.5, 0.5)]], Budget(1.0))
@given(tables, st.one_of(st.builds(Budget, st.floats(0.01, 2.0)), st.builds(Budget, joules=st.floats(0.05, 5.0))))
def test_equals_the_plan_with_every_option_scored(table, budget):
    choices, errors = [], {}
    for number, options in enumerate(table):
        choices.append(choice(f"s{number}", *((name, joules) for name, (joules, _) in zip(FORMATS, options, strict=False))))
        errors |= {(f"s{number}", name): error for name, (_, error) in zip(FORMATS, options, strict=False)}
    with pytest.MonkeyPatch.context() as patch:
        try:
            full = [module._with_errors(c, {key: Score(error, {}) for key, error in errors.items()}) for c in choices]
            wanted = solve(full, budget)
        except BudgetError:
            with pytest.raises(BudgetError):
                decided(patch, choices, errors, budget)
            return
        solution, scores, measured, _ = decided(patch, choices, errors, budget)
    assert solution.joules == pytest.approx(wanted.joules, rel=1e-4)
    assert solution.error == pytest.approx(wanted.error, rel=1e-4, abs=1e-6)
    assert len(measured) == len(set(measured)) == len(scores)
    for each in solution.choices:
        assert each.after.error == (0.0 if each.action == "leave" else errors[each.site, each.action])


def test_only_what_can_change_the_plan_is_measured(monkeypatch):
    options = ("int8_static", 0.2), ("int8_dynamic", 0.4), ("int8_weight", 1.5), ("int4_weight", 0.1)
    choices = [choice("a", *options, refused="int4_weight"), choice("b", ("int8_weight", 3.0))]
    errors = {("a", "int8_static"): 0.5, ("a", "int8_dynamic"): 0.01}
    solution, scores, measured, backend = decided(monkeypatch, choices, errors, Budget(0.02))
    assert measured == [("a", "int8_static"), ("a", "int8_dynamic")]
    assert [c.action for c in solution.choices] == ["int8_dynamic", "leave"]
    assert set(scores) == set(errors)
    assert len(backend.opened) == 1
    cheap, _, measured, _ = decided(monkeypatch, choices, errors, Budget(0.9))
    assert measured == [("a", "int8_static")]
    reasons = {o.action: o.reason for o in cheap.choices[0].options}
    assert reasons["int8_dynamic"].endswith("costs more joules than what was taken")
    assert reasons["int8_weight"] == ""
    assert reasons["int4_weight"] == "int4_weight is slow"
    assert cheap.choices[0].option("int8_dynamic").error == float("inf")


def test_exact_options_need_no_probe(monkeypatch):
    made = choice("a", ("merged", 0.5), ("int8_static", 2.0))
    solution, scores, measured, backend = decided(monkeypatch, [made], {}, Budget(0.02))
    assert solution.choices[0].action == "merged"
    assert (scores, measured, backend.opened) == ({}, [], [])


def test_a_merged_format_has_the_error_of_the_format(monkeypatch):
    made = choice("a", ("int8_static", 0.5), ("int8_static_merged", 0.3), ("merged", 0.9))
    solution, _, measured, _ = decided(monkeypatch, [made], {("a", "int8_static"): 0.01}, Budget(0.02))
    assert measured == [("a", "int8_static")]
    assert solution.choices[0].action == "int8_static_merged"
    assert solution.error == 0.01


def test_what_another_runtime_measured_is_not_measured_again(monkeypatch):
    known = {("a", "int8_static"): Score(0.5, {})}
    choices = [choice("a", ("int8_static", 0.2))]
    solution, scores, measured, backend = decided(monkeypatch, choices, {}, Budget(0.02), known)
    assert (measured, backend.opened) == ([], [])
    assert solution.choices[0].action == "leave"
    assert solution.choices[0].options[1].error == 0.5
    assert scores == known


def test_a_probe_disturbs_only_what_has_an_error_to_be_measured(monkeypatch):
    """A float16 site, say, has nothing but "leave", and no probe could add a float32 to it."""
    first, last = attention_site(9, id="mix", output="mix.y"), attention_site(9, id="other", output="other.y")
    groups = groups_of([linear("a"), linear("b"), first, last])
    choices = [
        choice("a", ("int8_static", 0.2)),
        choice("b", ("int8_static", 0.2), refused="int8_static"),
        choice("mix", ("spectral_sparse", 0.2), kind="attention"),
        choice("other", ("fused_attention", 0.2), kind="attention"),
    ]
    errors = {("a", "int8_static"): 0.01, ("mix", "spectral_sparse"): 0.3}
    solution, _, _, backend = decided(monkeypatch, choices, errors, Budget(0.02), groups=groups)
    ((read, disturbed),) = backend.opened
    assert disturbed == ("a.y", "mix.y")
    assert set(read) == {"a.x", "q", "k", "v", "a.y", "mix.y"}
    assert [c.action for c in solution.choices] == ["int8_static", "leave", "leave", "fused_attention"]


def plan(*choices: Choice) -> Plan:
    return Plan("cpu", Workload((Phase("3", {"x": (3,)}),)), Budget(), choices)


def test_a_plan_pins_its_own_sites_and_runtime():
    choices = [choice("a", ("int8_static", 0.2)), choice("b", ("int8_static", 0.2))]
    asked = Choice("a", "linear", "int8_static", (), ("a",), "onnxruntime", "")
    elsewhere = Choice("z", "linear", "int8_static", (), ("z",), "torch", "")
    first, second = lock(choices, plan(asked, elsewhere), "onnxruntime")
    assert (first.action, first.locked) == ("int8_static", True)
    assert (second.action, second.locked) == ("leave", False)
    assert lock(choices, None, "onnxruntime") == choices


def test_a_plan_that_does_not_fit_is_refused():
    made = choice("a", ("int8_static", 0.2), refused="int8_static")
    unknown = Choice("z", "linear", "leave", (), ("z",), "onnxruntime", "")
    with pytest.raises(InputError, match="names the site 'z', which this model does not have on onnxruntime"):
        lock([made], plan(unknown), "onnxruntime")
    with pytest.raises(InputError, match="has no option 'int3'; it has: leave, int8_static"):
        lock([made], plan(Choice("a", "linear", "int3", (), ("a",), "onnxruntime", "")), "onnxruntime")
    with pytest.raises(BudgetError, match=r"asks for int8_static at a, which is refused: int8_static is slow\.$"):
        lock([made], plan(Choice("a", "linear", "int8_static", (), ("a",), "onnxruntime", "")), "onnxruntime")


def test_a_locked_site_says_why_the_others_were_not_measured(monkeypatch):
    made = choice("a", ("int8_static", 0.2), ("int8_dynamic", 0.4))
    locked = lock([made], plan(Choice("a", "linear", "int8_dynamic", (), ("a",), "onnxruntime", "")), "onnxruntime")
    solution, _, measured, _ = decided(monkeypatch, locked, {("a", "int8_dynamic"): 0.5}, Budget(0.02))
    assert measured == [("a", "int8_dynamic")]
    assert solution.choices[0].action == "int8_dynamic"
    assert solution.choices[0].option("int8_static").reason == "its error was not measured, since the plan locks another action"


RANKS = (("low_rank_half", 0.5), ("low_rank_quarter", 0.25), ("low_rank_eighth", 0.125))


def test_ranks_are_scored_from_the_largest_on_and_only_as_far_as_they_fit(monkeypatch):
    errors = {("a", "low_rank_half"): 0.3, ("a", "low_rank_quarter"): 0.6, ("a", "int8_weight"): 0.01}
    choices = [choice("a", *RANKS, ("int8_weight", 0.7))]
    solution, _, measured, _ = decided(monkeypatch, choices, errors, Budget(0.02))
    assert measured == [("a", "low_rank_half"), ("a", "int8_weight")]
    assert [c.action for c in solution.choices] == ["int8_weight"]
    reason = solution.choices[0].option("low_rank_eighth").reason
    assert reason == "its error was not measured, since that of low_rank_half, which keeps more of the weight, is 0.3 already"


def test_a_smaller_rank_is_taken_where_it_fits(monkeypatch):
    errors = {("a", "low_rank_half"): 0.001, ("a", "low_rank_quarter"): 0.005, ("a", "low_rank_eighth"): 0.05}
    solution, _, measured, _ = decided(monkeypatch, [choice("a", *RANKS)], errors, Budget(0.02))
    assert [name for _, name in measured] == ["low_rank_half", "low_rank_quarter", "low_rank_eighth"]
    assert [c.action for c in solution.choices] == ["low_rank_quarter"]


def test_a_larger_rank_that_is_refused_says_nothing_of_a_smaller(monkeypatch):
    known = {("a", "low_rank_half"): Score(float("inf"), {}, refused="its inputs are too few")}
    errors = {("a", "low_rank_quarter"): 0.01}
    solution, _, measured, _ = decided(monkeypatch, [choice("a", *RANKS[:2])], errors, Budget(0.02), known)
    assert measured == [("a", "low_rank_quarter")]
    assert [c.action for c in solution.choices] == ["low_rank_quarter"]
    assert solution.choices[0].option("low_rank_half").reason == "its inputs are too few"
