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
    "model": {"source": "minilm", "inputs": ["ids", "mask"], "outputs": [], "notes": ["Unverified on CUDA."]},
    "target": "cpu",
    "sites": {"attention": 0, "linear": 2},
    "choices": [{"site": "layer.0.query", "error_predicted": 0.003}],
    "misses": [{"op": f"softmax_{i}", "kind": "attention", "reason": "Too short."} for i in range(8)],
    "joules": {"before": 4.0, "after": 2.5, "label": "modelled", "terms": TERMS},
    "seconds": {"before": 0.4, "after": 0.2, "label": "measured", "predicted": {"before": 0.5, "after": 0.25}},
    "floors": {"landauer_joules": 2.87e-21 * 1e9, "landauer_stored_joules": 2.87e-21 * 2e9, "io_bytes": 4e6, "core_bytes": 6e6},
    "error": {"budget": 0.02, "measured": 0.0041, "metric": "recall", "metric_before": 0.61, "metric_after": 0.6, "held_out": False},
    "steps": [{"pass": "int8", "changed": 2, "nodes_before": 9, "nodes_after": 13, "max_error": 0.0041, "seconds": 1.5}],
    "rolled_back": ["int8_static at layer.1.out was taken back: over budget."],
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


def test_floors_are_of_the_whole_model_and_say_for_which_machine_they_hold():
    floors = report_view(REPORT, plan())["floors"]
    assert floors == (
        "No machine can do this work below 2.87 pJ (Landauer; 5.74 pJ where every op stores its results) or, from a cold start, by moving "
        "fewer than 4.00 MB from and to memory; 6.00 MB is the least from and to its cores, where nothing is computed twice. Floors are "
        "modelled and never decide anything here."
    )
    token = {"perplexity": 16.0, "joules": 0.5, "landauer_joules": 1.148e-20, "gap": 4.355e19}
    text = report_view({**REPORT, "floors": {**REPORT["floors"], "token": token}}, plan())["floors"]
    assert text == (
        f"{floors} A token of perplexity 16 (measured) has a floor of 11.5 zJ, and costs 500 mJ (modelled), 4.36e+19 times that."
    )


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


def test_it_says_on_what_the_joules_rest():
    joules = {**REPORT["joules"], "provenance": {"prior": 0.9, "measured": 0.1}}
    said = "Joules before the rewrite are modelled; 90 % of them rest on prior coefficients, 10 % on measured ones."
    assert said in report_view({**REPORT, "joules": joules}, plan())["floors"]
    assert "rest on" not in report_view(REPORT, plan())["floors"]


def test_why_joules_were_not_measured_is_said():
    joules = {"before": 4.0, "after": 2.5, "unavailable": "There is no counter."}
    assert "Joules were not measured: There is no counter." in report_view({**REPORT, "joules": joules}, plan())["floors"]
    assert "not measured" not in report_view(REPORT, plan())["floors"]


def test_ops_without_a_price_make_modelled_totals_a_lower_limit():
    floors = {**REPORT["floors"], "at_least": True, "unpriced": [f"fft_{i}" for i in range(7)]}
    view = report_view({**REPORT, "floors": floors}, plan())
    assert "at least 2.50 J per call instead of at least 4.00 J" in view["headline"]
    assert [row["after"] for row in view["totals"]] == ["at least 2.50 J", "200 ms", "at least 250 ms"]
    assert view["unpriced"] == 'Without a price, so totals say "at least": fft_0, fft_1, fft_2, fft_3, fft_4 and 2 more.'
    assert report_view(REPORT, plan())["unpriced"] == ""


def test_a_metric_as_budget_is_not_held_against_the_error():
    error = {"budget": 0.01, "measured": 0.0104, "metric": "recall", "metric_before": 0.51, "metric_after": 0.502}
    assert report_view({**REPORT, "error": error, "gap": 0.0001}, plan())["error"] == [
        ("budget", "recall may drop by 0.01"),
        ("recall", "0.51 before, 0.502 after, drop 0.008"),
        ("measured error", "0.0104 relative squared error (not limited)"),
        ("solver's gap", "the plan is within 0.01 % of the best one"),
    ]


def test_perplexity_is_told_beside_the_likelihood():
    error = {"budget": 0.01, "measured": 0.01, "metric": "log-likelihood", "metric_before": -2.0, "metric_after": -2.0099}
    error |= {"perplexity_before": 7.38906, "perplexity_after": 7.46257}
    rows = dict(report_view({**REPORT, "error": error}, plan())["error"])
    assert rows["perplexity"] == "7.389 before, 7.463 after, +0.99 % (measured)"


def test_each_runtime_has_its_own_error_against_the_budget():
    error = {"budget": 0.02, "measured": 0.0041, "metric": None, "metric_before": None, "metric_after": None}
    runtimes = {"torch": {"error": {**error, "measured": 0.01}}, "onnxruntime": {"error": error}}
    assert report_view({**REPORT, "error": error, "runtimes": runtimes}, plan())["error"] == [
        ("budget", "0.02 relative squared error"),
        ("measured error, torch", "0.01 relative squared error"),
        ("measured error, onnxruntime", "0.0041 relative squared error"),
    ]


def test_a_joule_budget_is_named():
    rows = report_view({**REPORT, "budget": {"error": 0.02, "joules": 3.0}}, plan())["error"]
    assert rows[0] == ("budget", "3.00 J per call; the error is not limited")


def test_notes_are_shown():
    assert report_view(REPORT, plan())["facts"] == [
        ("inputs", "ids, mask"),
        ("sites", "2 linear"),
        ("note", "Unverified on CUDA."),
    ]


def test_equal_refusals_share_a_row():
    (row,) = report_view(REPORT, plan())["misses"]
    assert row["ops"] == "softmax_0, softmax_1, softmax_2, softmax_3, softmax_4 and 3 more"


def test_terms_share_one_scale():
    view = report_view(REPORT, plan())
    assert [[p["width"] for p in bar["parts"]] for bar in view["bars"]] == [["75.00", "25.00"], ["62.50", "0.00"]]
    assert view["terms"] == [("static", "3.00 J", "2.50 J"), ("memory", "1.00 J", "0 J")]


def test_a_report_with_parts_missing_still_shows():
    view = report_view({}, plan("leave"))
    assert view["title"] == "model"
    assert view["totals"][0]["before"] == "unknown"
    assert view["bars"] == []
    assert view["phases"] == [("1x128", "ids 1x128, rate scalar", "100 %")]
