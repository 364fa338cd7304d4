"""The table that a rewrite prints."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from szilard.cost_model.plan import Budget, Choice, Option, Phase, Plan, Workload
from szilard.rewriter.command_line_rewrite import rewrite_text

OPTIONS = (Option("leave", 2.0, 0.2, "measured"), Option("int8_static", 0.5, 0.1, "measured", 0.004, (1.2, 1.8)))


def result(*actions: str, **report) -> SimpleNamespace:
    choices = tuple(
        Choice(f"site_{i}", "linear", action, OPTIONS, (f"site_{i}",), "onnxruntime", "Why.")
        for i, action in enumerate(actions)
    )
    plan = Plan("cpu", Workload((Phase("1x128", {"ids": (1, 128)}),)), Budget(), choices)
    joules, seconds = {"before": 4.0, "after": 2.5, "label": "modelled"}, {"before": 0.4, "after": 0.2, "label": "measured"}
    error = {"budget": 0.02, "measured": 0.0041, "held_out": True}
    return SimpleNamespace(report={"joules": joules, "seconds": seconds, "error": error, **report}, plan=plan)


def test_the_table():
    text = rewrite_text(
        result("int8_static", "leave", "int8_static", misses=[{"op": "s", "kind": "attention", "reason": "Short."}]),
        Path("out"),
    )
    assert text.splitlines()[0] == "Rewritten at 2 places on onnxruntime: 2.50 J per call instead of 4.00 J (-38 %, modelled)."
    assert "Joules per call   4.00 J  2.50 J   -38 %  modelled" in text
    assert "Seconds per call  400 ms  200 ms   -50 %  measured" in text
    assert "measured error: 0.0041 relative squared error" in text
    assert "choices: int8_static 2, leave 1" in text
    assert "refused: 1; `szilard explain out` says why" in text
    assert text.endswith("written to out")


def test_an_unchanged_model_says_so():
    text = rewrite_text(result("leave"), Path("out"))
    assert text.startswith("Nothing was changed")
    assert "refused" not in text
    assert "choices: none" in rewrite_text(result(), Path("out"))


def test_a_lower_limit_says_so_and_names_what_has_no_price():
    text = rewrite_text(result("int8_static", floors={"at_least": True, "unpriced": ["fft", "fft_1"]}), Path("out"))
    assert "at least 2.50 J per call instead of at least 4.00 J" in text
    assert "at least 4.00 J  at least 2.50 J" in text
    assert "at least 200 ms" not in text
    assert 'Without a price, so totals say "at least": fft, fft_1.' in text
    assert "at least" not in rewrite_text(result("int8_static"), Path("out"))


def test_each_runtime_has_its_own_choices():
    found = result("int8_static", "leave", "leave")
    choices = tuple(replace(c, runtime="torch") if i == 1 else c for i, c in enumerate(found.plan.choices))
    text = rewrite_text(SimpleNamespace(report=found.report, plan=replace(found.plan, choices=choices)), Path("out"))
    assert "choices on onnxruntime: int8_static 1, leave 1\nchoices on torch: leave 1" in text


def test_notes_and_roll_backs_are_said():
    text = rewrite_text(
        result("leave", model={"notes": ["Axis 1 is fixed at 7."]}, rolled_back=["site_0: over budget"]), Path("out")
    )
    assert "note: Axis 1 is fixed at 7." in text
    assert "rolled back: site_0: over budget" in text


def test_how_far_attention_went_sparse_is_said_where_any_was_scored():
    row = {"site": "a", "runtime": "torch", "action": "spectral_sparse", "tile": 16, "length": 4096, "density": 0.1}
    scored = {**row, "heads": [{"head": 0, "budget": 8, "error": 0.09}]}
    text = rewrite_text(result("leave", attention=[scored, {**row, "action": "leave", "heads": []}]), Path("out"))
    assert "attention: On torch, 1 of 2 attentions went sparse, in 1 of their 1 heads, with 8 exact tiles of 16 keys" in text
    assert "attention:" not in rewrite_text(result("leave", attention=[{**row, "action": "leave", "heads": []}]), Path("out"))
