"""Choices as rows: both runtimes apart, each with its own error, and options that have no price or no score readable."""

from dataclasses import replace

from szilard.cost_model.plan import Budget, Choice, Option, Phase, Plan, Workload
from szilard.rewriter.report_choices import choice_groups

OPTIONS = (
    Option("leave", 2.0, 0.2, "measured"),
    Option("int8_static", 0.5, 0.1, "measured", 0.004, (1.2, 1.8)),
    Option("int8_dynamic", 1.5, 0.1, "measured", float("inf"), (0.2, 0.8), "its error was not measured"),
    Option("int8_static_merged", float("inf"), float("inf"), "", reason="the group has a single member"),
)
CHOICE = Choice("query", "linear", "int8_static", OPTIONS, ("query", "key"), "torch", "It pays.")


def groups(*choices: Choice) -> list[dict]:
    return choice_groups(Plan("cpu", Workload((Phase("1x7", {"ids": (1, 7)}),)), Budget(), choices))


def test_runtimes_are_apart_and_the_same_site_keeps_its_own_error():
    coarser = tuple(replace(o, error=0.03) if o.action == "int8_static" else o for o in OPTIONS)
    left = replace(CHOICE, site="value", action="leave")
    found = groups(CHOICE, left, replace(CHOICE, runtime="onnxruntime", options=coarser))
    assert [(g["heading"], g["changed"], [(row["site"], row["error"]) for row in g["rows"]]) for g in found] == [
        ("What was changed on torch", True, [("query", "0.004")]),
        ("What was left as it is on torch", False, [("value", "0")]),
        ("What was changed on onnxruntime", True, [("query", "0.03")]),
    ]
    assert groups() == []


def test_a_choice_carries_every_option_and_its_reason():
    (row,) = groups(CHOICE)[0]["rows"]
    assert row["members"] == ["key"]
    assert [o["taken"] for o in row["options"]] == [False, True, False, False]
    assert row["options"][3]["reason"] == "the group has a single member"
    assert (row["width_before"], row["width_after"]) == ("100.00", "25.00")


def test_what_was_never_scored_has_no_error_and_what_has_no_price_says_so():
    _, _, unscored, impossible = groups(CHOICE)[0]["rows"][0]["options"]
    assert (unscored["joules"], unscored["error"]) == ("1.50 J", "")
    texts = [impossible[key] for key in ("joules", "seconds", "saving", "error")]
    assert texts == ["not available", "", "", ""]
