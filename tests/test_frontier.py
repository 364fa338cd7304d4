"""Joules against error from the table of a folder: never better than brute force, never without the model's own limits. Covers
score_table.py and command_line_frontier.py too."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import szilard
from szilard.cost_model.errors import BudgetError, InputError
from szilard.cost_model.net import Net, Value
from szilard.cost_model.plan import Budget, Choice, Option, Phase, Plan, Workload
from szilard.rewriter import score_table
from szilard.rewriter.command_line import app
from szilard.rewriter.edges import Edge
from szilard.rewriter.explain import read_plan
from szilard.rewriter.frontier import NOT_MEASURED, Table, read_tables, resolved, tables_of, unmeasured
from szilard.rewriter.score_table import STEPS, complete_table
from szilard.rewriter.solve import Solution

from .tiny_models import block_model, samples, set_clock

FAST_INT8 = {"leave": 1e-3, "int8_static": 3e-4, "int8_dynamic": 4e-4, "int8_weight": 6e-4, "int4_weight": 5e-4}


def choice(name: str, *options: tuple[str, float, float], program: str = "", action: str = "leave") -> Choice:
    made = (Option("leave", 1.0, 1.0, "measured"), *(Option(a, j, j, "measured", e, (0.1, 1.0)) for a, j, e in options))
    return Choice(name, "linear", action, made, (name,), "onnxruntime", "", program=program)


sixty_fourths = st.integers(1, 63).map(lambda n: n / 64)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.tuples(sixty_fourths, sixty_fourths), min_size=1, max_size=3), min_size=1, max_size=4))
def test_no_plan_at_all_is_better_than_one_on_the_frontier(options):
    choices = [choice(f"s{i}", *((f"o{k}", j, e) for k, (j, e) in enumerate(found))) for i, found in enumerate(options)]
    points = Table("onnxruntime", {"": tuple(choices)}, (0.5, 0.25)).frontier()
    plans = [
        (sum(o.error for o in picks), 0.5 + sum(o.joules for o in picks))
        for picks in itertools.product(*(c.options for c in choices))
    ]
    for point in points:
        assert not any(e <= point.error + 1e-9 and j < point.joules - 1e-6 for e, j in plans)
        assert (point.error, point.joules) == pytest.approx(
            (sum(c.after.error for c in point.choices), 0.5 + sum(c.after.joules for c in point.choices))
        )
    assert points[0].error == 0
    assert points[-1].joules == pytest.approx(min(j for _, j in plans))
    assert [p.error for p in points] == sorted(p.error for p in points)
    assert [p.joules for p in points] == sorted((p.joules for p in points), reverse=True)


def test_programs_are_held_to_the_budget_each_by_itself_and_add_up():
    mine, other = choice("a", ("half", 0.5, 0.02), program="prefill"), choice("a", ("half", 0.5, 0.03), program="decode")
    table = Table("torch", {"prefill": (mine,), "decode": (other,)}, (0.0, 0.0))
    assert [c.action for c in table.solve(Budget(error=0.02)).choices] == ["half", "leave"]
    point = table.solve(Budget(error=0.03))
    assert (point.joules, point.error, point.actions) == (1.0, 0.03, {"half": 2})
    with pytest.raises(InputError, match="prefill and decode"):
        table.solve(Budget(joules=1.5))


def test_conversions_between_sites_are_paid():
    able = replace(choice("a", ("int8_conv", 0.5, 0.001)), kind="conv")
    able = replace(able, options=tuple(replace(o, quantized=o.action != "leave") for o in able.options))
    edges = (Edge("x", "", ("a",), 0.1, 0.0, 0.002, (0.01, 0.0)), Edge("y", "a", ("",), 0.0, 0.2, 0.0, (0.0, 0.02)))
    point = Table("onnxruntime", {"": (able,)}, (0.0, 0.0), {"": edges}).solve(Budget(error=0.02))
    assert (point.joules, point.error, point.seconds) == pytest.approx((0.8, 0.003, 0.53))
    report = {
        "runtimes": {"onnxruntime": {"joules": {"before": 1.5}, "seconds": {"before": 1.25}}},
        "edges": [{"runtime": "onnxruntime", **vars(edge)} for edge in edges],
    }
    (table,) = tables_of(Plan("cpu", Workload((Phase("1", {"x": (1,)}),)), Budget(), (able,)), report)
    assert table.elsewhere == (0.5, 0.25)
    assert table.solve(Budget(error=0.02)).joules == pytest.approx(1.3)
    # Of a value that nothing reads as codes no error is measured, and the way back is paid all the same.
    report["edges"][1]["error"] = None
    (table,) = tables_of(Plan("cpu", Workload((Phase("1", {"x": (1,)}),)), Budget(), (able,)), report)
    assert table.solve(Budget(error=0.02)).joules == pytest.approx(1.3)
    report["edges"][0]["error"] = None
    (table,) = tables_of(Plan("cpu", Workload((Phase("1", {"x": (1,)}),)), Budget(), (able,)), report)
    assert table.solve(Budget(error=0.02)).actions == {"leave": 1}


def test_the_table_is_filled_for_other_budgets_where_runs_are_few():
    asked = []

    def solved(budget, limit):
        assert budget.joules is None
        asked.append(limit)
        return Solution((), 0.0, 0.0, 0.0)

    small = Net({}, {"w": Value("w", (3, 4), "float32", lambda: np.ones((3, 4)))}, (), ())
    quantised = [choice("a", ("int8_static", 0.5, 0.0))]
    complete_table(solved, quantised, Budget(error=0.02, joules=5.0), small)
    assert asked == [step * 0.02 for step in STEPS]
    asked.clear()
    complete_table(solved, [replace(quantised[0], locked=True)], Budget(), small)
    complete_table(solved, quantised, Budget(error=0.0), small)
    complete_table(solved, [choice("a", ("merged", 0.5, 0.0))], Budget(), small)
    assert asked == []


def test_where_runs_are_dear_only_what_the_budget_asks_for_is_measured(monkeypatch):
    monkeypatch.setattr(score_table, "MOST_WORK", -1.0)
    small = Net({}, {"w": Value("w", (3, 4), "float32", lambda: np.ones((3, 4)))}, (), ())
    complete_table(pytest.fail, [choice("a", ("int8_static", 0.5, 0.0))], Budget(), small)


@pytest.fixture
def folder(monkeypatch, tmp_path):
    set_clock(monkeypatch, FAST_INT8)
    szilard.rewrite(block_model(), calibration=samples(), out=tmp_path / "out")
    return tmp_path / "out"


def test_a_folder_is_planned_again_as_a_rewrite_would_plan_it(folder, tmp_path):
    plan, report, (table,) = read_tables(folder)
    taken = table.point(plan.choices)
    assert taken.joules == pytest.approx(report["joules"]["after"])
    assert table.solve(Budget(error=0.0)).joules <= report["joules"]["before"] * (1 + 1e-9)
    points = table.frontier()
    assert len(points) > 2
    for limit in (0.0005, 0.002, 0.2):
        fresh = szilard.rewrite(block_model(), calibration=samples(), budget=limit)
        if not fresh.report["rolled_back"]:
            again = table.solve(Budget(error=limit))
            assert again.joules == pytest.approx(fresh.after, rel=1e-6)
    written = tmp_path / "new.json"
    cheap = table.solve(Budget(error=0.2))
    written.write_text(json.dumps(resolved(plan, [cheap], Budget(error=0.2)).to_json()))
    replayed = szilard.rewrite(block_model(), calibration=samples(), plan=read_plan(written))
    assert [c.action for c in replayed.plan.choices] == [c.action for c in cheap.choices]


def test_what_is_planned_again_says_nothing_of_other_runtimes_and_keeps_a_metric_as_the_budget():
    mine = replace(choice("a", ("half", 0.5, 0.02)), runtime="onnxruntime")
    plan = Plan("cpu", Workload((Phase("1", {"x": (1,)}),)), Budget(0.1, metric="recall"), (choice("a"), mine))
    point = Table("onnxruntime", {"": (mine,)}, (0.0, 0.0)).solve(Budget(error=0.02))
    found = resolved(plan, [point], Budget(error=0.02))
    assert [(c.runtime, c.action) for c in found.choices] == [("onnxruntime", "half")]
    assert found.budget == plan.budget
    assert resolved(replace(plan, budget=Budget(0.1)), [point], Budget(error=0.02)).budget == Budget(error=0.02)


def test_options_without_a_measured_error_are_in_no_plan_and_counted():
    unknown = Option("int4_weight", 0.1, 0.1, "measured", float("inf"), (0.1, 1.0), f"{NOT_MEASURED}, since it was not")
    made = choice("a", ("int8_static", 0.5, 0.01))
    table = Table("torch", {"": (replace(made, options=(*made.options, unknown)),)}, (0.0, 0.0))
    assert unmeasured(table) == 1
    assert table.frontier()[-1].actions == {"int8_static": 1}


def run(*arguments):
    return CliRunner().invoke(app, ["frontier", *map(str, arguments)])


def test_the_command(folder, tmp_path):
    text = run(folder)
    assert text.exit_code == 0
    assert "this folder" in text.stdout
    assert "on held-out data" in " ".join(text.stdout.split())
    data = json.loads(run(folder, "--json").stdout)
    assert len(data["points"]) > 2
    assert data["solve_seconds"] < 60
    one = run(folder, "--budget", "0.001", "--out", tmp_path / "p.json", "--json")
    found = json.loads(one.stdout)
    assert found["plan"]["error"] <= 0.001
    assert read_plan(tmp_path / "p.json").budget.error == 0.001
    assert found["plan"]["gap"] <= 1e-6
    for arguments, code, words in (
        ((tmp_path,), 2, "not a folder that szilard wrote"),
        ((folder, "--joules", "1e-9"), 3, "cannot be met"),
        ((folder, "--budget", "1", "--joules", "1"), 2, "contradict"),
        ((folder, "--budget", "-1"), 2, "not a budget"),
        ((folder, "--runtime", "tvm"), 2, "it has: onnxruntime"),
        ((folder, "--out", tmp_path / "q.json"), 2, "--budget or --joules"),
    ):
        done = run(*arguments)
        assert (done.exit_code, done.stdout) == (code, "")
        assert words in done.stderr


def test_sites_are_left_by_their_names_and_said(monkeypatch):
    set_clock(monkeypatch, FAST_INT8)
    result = szilard.rewrite(block_model(), calibration=samples(), exclude=["up*"])
    by_site = {c.site: c for c in result.plan.choices if c.kind == "linear"}
    up, down = (next(c for name, c in by_site.items() if name.startswith(start)) for start in ("up", "down"))
    assert (up.action, down.action != "leave") == ("leave", True)
    assert "--exclude 'up*' names up" in up.reason
    assert result.plan.exclude == ("up*",)
    assert Plan.from_json(json.loads(json.dumps(result.plan.to_json()))).exclude == ("up*",)
    only = szilard.rewrite(block_model(), calibration=samples(), include="down*", only=["linear"])
    assert {c.site: c.action for c in only.plan.choices if c.action != "leave"}.keys() == {down.site}
    assert "no --include names it" in next(c for c in only.plan.choices if c.site == up.site).reason
    for option in ("include", "exclude"):
        with pytest.raises(InputError, match=f"--{option} 'nothing' is the name of no site"):
            szilard.rewrite(block_model(), calibration=samples(), **{option: ["nothing"]})
    replayed = replace(
        result.plan, choices=tuple(replace(c, action="int8_static") if c.site == up.site else c for c in result.plan.choices)
    )
    with pytest.raises(BudgetError, match="refused: --exclude"):
        szilard.rewrite(block_model(), calibration=samples(), plan=replayed, exclude=["up*"])
    assert np.isfinite(result.after)
