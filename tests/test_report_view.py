"""What a report shows: one sentence for the result, units on numbers, nothing lost when parts of the report are missing."""

from szilard.cost_model.plan import Budget, Choice, Option, Phase, Plan, Workload
from szilard.rewriter.report_view import headline, report_view


def plan(action: str = "int8_static") -> Plan:
    options = (
        Option("leave", 2.0, 0.2, "measured"),
        Option("int8_static", 0.5, 0.1, "measured", 0.004, (1.2, 1.8)),
        Option("int4_weight", 0.4, 0.1, "table", 0.4, (1.2, 1.8), "its error alone is over the budget"),
    )
    choice = Choice("layer.0.query", "linear", action, options, ("layer.0.query", "layer.0.key"), "onnxruntime", "It pays.")
    return Plan("cpu", Workload((Phase("1x128", {"ids": (1, 128), "rate": ()}),)), Budget(), (choice,))


TERMS = {"before": {"static": 3.0, "memory": 1.0}, "after": {"static": 2.5}}
REPORT = {
    "model": {"name": "minilm", "parameters": 7, "nested": {"x": 1}},
    "target": "cpu",
    "sites": {"attention": 0, "linear": 2},
    "choices": [{"site": "layer.0.query", "error_predicted": 0.003}],
    "misses": [{"op": f"softmax_{i}", "kind": "attention", "reason": "Too short."} for i in range(8)],
    "joules": {"before": 4.0, "after": 2.5, "label": "modelled", "terms": TERMS},
    "seconds": {"before": 0.4, "after": 0.2, "label": "measured", "predicted": {"before": 0.5, "after": 0.25}},
    "floors": {"landauer_joules": 2.87e-21 * 1e9, "io_bytes": 4e6},
    "error": {"budget": 0.02, "measured": 0.0041, "metric": "recall", "metric_before": 0.61, "metric_after": 0.6, "held_out": False},
    "steps": [{"pass": "int8", "changed": 2, "nodes_before": 9, "nodes_after": 13, "max_error": 0.0041, "seconds": 1.5}],
    "rolled_back": [{"site": "layer.1.out", "action": "int8_static", "reason": "over budget"}, "layer.2"],
}  # fmt: skip


def test_the_headline_names_both_numbers_and_their_label():
    assert (
        headline(REPORT, plan()) == "Rewritten at 1 place on onnxruntime: 2.50 J per call instead of 4.00 J (-38 %, modelled)."
    )
    assert headline(REPORT, plan("leave")).startswith("Nothing was changed")


def test_totals_show_predicted_beside_measured_seconds():
    rows = report_view(REPORT, plan())["totals"]
    assert [(r["before"], r["after"], r["change"], r["label"]) for r in rows] == [
        ("4.00 J", "2.50 J", "-38 %", "modelled"),
        ("400 ms", "200 ms", "-50 %", "measured"),
        ("500 ms", "250 ms", "-50 %", "modelled"),
    ]
    assert "Landauer" in rows[0]["floor"]


def test_two_runtimes_have_rows_of_their_own():
    part = {
        "joules": {"before": 4.0, "after": 3.0, "label": "modelled"},
        "seconds": {"before": 1.0, "after": 0.5, "label": "measured"},
    }
    view = report_view({**REPORT, "runtimes": {"torch": part, "onnxruntime": {**part, "joules": REPORT["joules"]}}}, plan())
    assert [(r["name"], r["after"]) for r in view["totals"]] == [
        ("Joules per call, torch", "3.00 J"),
        ("Seconds per call, torch", "500 ms"),
        ("Joules per call, onnxruntime", "2.50 J"),
        ("Seconds per call, onnxruntime", "500 ms"),
    ]


def test_why_joules_were_not_measured_is_said():
    joules = {"before": 4.0, "after": 2.5, "unavailable": "There is no counter."}
    assert "Joules were not measured: There is no counter." in report_view({**REPORT, "joules": joules}, plan())["floors"]
    assert "not measured" not in report_view(REPORT, plan())["floors"]


def test_a_choice_carries_every_option_and_its_reason():
    (choice,) = report_view(REPORT, plan())["changed"]
    assert choice["error"] == "0.003"
    assert choice["members"] == ["layer.0.key"]
    assert [o["action"] for o in choice["options"]] == ["leave", "int8_static", "int4_weight"]
    assert [o["taken"] for o in choice["options"]] == [False, True, False]
    assert choice["options"][2]["reason"] == "its error alone is over the budget"
    assert (choice["width_before"], choice["width_after"]) == ("100.00", "25.00")


def test_equal_refusals_share_a_row():
    (row,) = report_view(REPORT, plan())["misses"]
    assert row["ops"] == "softmax_0, softmax_1, softmax_2, softmax_3, softmax_4 and 3 more"


def test_terms_share_one_scale():
    view = report_view(REPORT, plan())
    assert [[p["width"] for p in bar["parts"]] for bar in view["bars"]] == [["75.00", "25.00"], ["62.50", "0.00"]]
    assert view["terms"] == [("static", "3.00 J", "2.50 J"), ("memory", "1.00 J", "0 J")]


def test_rolled_back_entries_become_sentences():
    assert report_view(REPORT, plan())["rolled_back"] == ["layer.1.out (int8_static): over budget", "layer.2"]


def test_a_report_with_parts_missing_still_shows():
    view = report_view({}, plan("leave"))
    assert view["title"] == "model"
    assert view["totals"][0]["before"] == "unknown"
    assert view["bars"] == []
    assert view["phases"] == [("1x128", "ids 1x128, rate scalar", "100 %")]
