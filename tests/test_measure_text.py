"""What `szilard measure` prints: every figure with its interval and label, both levels of error, and nothing wider than a terminal."""

import re

import pytest

from szilard.rewriter.measure_text import measure_text

SECONDS = {
    "predicted": 0.2,
    "predicted_from": "roofline",
    "from_profile": {"value": 0.2, "low": 0.1, "high": 0.4, "label": "roofline", "table_share": 0.0},
    "measured": 0.1,
    "low": 0.09,
    "high": 0.11,
}
PROMISED = {"value": 1.0, "low": 0.5, "high": 2.0, "label": "modelled"}
REASON = "There is no counter, so joules are modelled."
UNSEEN = {
    "predicted": 1.0,
    "from_profile": PROMISED,
    "modelled": 0.75,
    "modelled_low": 0.5,
    "modelled_high": 1.25,
    "measured": None,
    "low": None,
    "high": None,
    "label": "modelled",
    "unavailable": REASON,
    "static": {"predicted": 0.6, "as_run": 0.3, "watts": 3.0, "provenance": "prior"},
    "provenance": {"prior": 0.9, "measured": 0.1},
}
FLOORS = {"landauer": 1e-13, "landauer_stored": 3e-12, "memory_bytes": 4e6, "core_bytes": 5e6}
LOG = {
    "temperature": 41.0,
    "clock": 1980.0,
    "power_limit": 700.0,
    "throttle": ["power cap"],
    "device": "A card",
    "driver": "550.1",
    "stopped": "precise",
    "windows": 7,
    "cross_check": 1.02,
    "flags": ["It warmed by 9 degrees."],
}
SEEN = {**UNSEEN, "measured": 0.5, "low": 0.4, "high": 0.6, "label": "measured", "log": LOG}
del SEEN["unavailable"]
SUMMARY = {
    "ops": 40,
    "judged": 30,
    "judged_share": 0.97,
    "median_error": 0.25,
    "sum": 0.098,
    "predicted": 0.19,
    "error": 0.94,
    "added": 2.7e-6,
    "how": "onnxruntime's profiler",
    "calls": 50,
}


def row(kind="matmul", **more):
    found = {"kind": kind, "ops": 3, "predicted": 2e-3, "label": "table", "measured": 1e-3, "share": 0.5, "error": 1.0}
    return {**found, "joules_predicted": 0.02, "joules_modelled": 0.01, **more}


def run(config="m onnxruntime 1x8", seconds=SECONDS, joules=UNSEEN, classes=(), summary=SUMMARY):
    found = {"config": config, "seconds": seconds, "joules": joules, "classes": list(classes or [row()]), "summary": summary}
    return {**found, "floors": FLOORS, "moved": {"memory": 6e6, "cache": 7e6}}


def text(*runs, differences=(), notes=()):
    return measure_text({"target": "cpu", "runs": list(runs), "differences": list(differences), "notes": list(notes)})


def lines(*runs, **more):
    """The lines, with long sentences as one."""
    return re.sub(r"\n  (?=\S)", " ", text(*runs, **more)).splitlines()


def words(line: str) -> str:
    """A line of a table with one space between its words."""
    return " ".join(line.split())


def test_the_whole_stands_first_with_intervals_and_labels():
    found = lines(run())
    assert found[0] == "m onnxruntime 1x8, per call, predicted for cpu"
    assert words(found[1]) == "predicted interval from as run interval label error"
    assert words(found[2]) == "seconds 200 ms 100 ms to 400 ms roofline 100 ms 90.0 ms to 110 ms measured +100 %"
    assert words(found[3]) == "joules 1.00 J 500 mJ to 2.00 J modelled 750 mJ 500 mJ to 1.25 J modelled"
    assert f"joules unavailable: {REASON}" in found
    assert "Intervals hold a measured value with 95 %" in found[-1]


def test_static_joules_what_modelled_ones_rest_on_and_floors_are_labelled():
    found = lines(run())
    assert found[4] == "static joules: 600 mJ of the predicted, 300 mJ of those as run (modelled: 3.00 W, prior)"
    assert found[5] == "modelled joules: 90 % of them rest on prior coefficients, 10 % on measured ones"
    assert found[6] == (
        "floors (modelled), which decide nothing: 100 fJ (Landauer; 3.00 pJ if every op stores its results), 4.00 MB from and to memory "
        "at a cold start, 5.00 MB from and to cores, where it moves 7.00 MB (modelled)"
    )


def test_replayed_joules_name_their_recording_and_never_claim_to_be_measured():
    log = {**LOG, "windows": 0, "stopped": "", "flags": ["The recorded calls took 1.00 s each, these 100 ms."]}
    found = lines(run(joules={**SEEN, "label": "replayed", "reason": "Joules are those recorded in rows.csv.", "log": log}))
    assert words(found[3]) == "joules 1.00 J 500 mJ to 2.00 J modelled 500 mJ 400 mJ to 600 mJ replayed +100 %"
    assert found[4].startswith("recorded: Joules are those recorded in rows.csv. Sensors: A card, driver 550.1, 41 °C")
    assert "windows" not in found[4]
    assert found[5] == "doubt: The recorded calls took 1.00 s each, these 100 ms."
    bare = {
        **log,
        "device": "",
        "driver": "",
        **dict.fromkeys(("temperature", "clock", "power_limit", "cross_check")),
        "throttle": [],
    }
    assert lines(run(joules={**SEEN, "label": "replayed", "reason": "R.", "log": bare}))[4] == "recorded: R. Sensors: none"


def test_measured_joules_come_with_what_the_sensors_said():
    found = lines(run(joules=SEEN))
    assert words(found[3]) == "joules 1.00 J 500 mJ to 2.00 J modelled 500 mJ 400 mJ to 600 mJ measured +100 %"
    assert found[4] == (
        "counter (measured): A card, driver 550.1, 41 °C, 1980 MHz, limit 700 W, throttled: power cap, power over counter 1.020, "
        "7 windows, stopped when precise"
    )
    assert found[5] == "doubt: It warmed by 9 degrees."
    assert not any("unavailable" in line for line in found)


def test_classes_say_how_seconds_were_had_and_that_joules_are_modelled():
    found = lines(run(classes=[row(), row("softmax", error=None, label="roofline", share=0.004)]))
    start = next(number for number, line in enumerate(found) if line.startswith("op class"))
    assert words(found[start]).endswith("error modelled joules modelled as run")
    assert words(found[start + 1]) == "matmul 3 2.00 ms table 1.00 ms 50.0 % +100 % 20.0 mJ 10.0 mJ"
    assert words(found[start + 2]) == "softmax 3 2.00 ms roofline 1.00 ms 0.4 % 20.0 mJ 10.0 mJ"


def test_many_classes_end_in_one_row():
    found = lines(run(classes=[row(f"kind{number}", share=0.05) for number in range(20)]))
    assert sum(line.startswith("kind") for line in found) == 12
    rest = next(line for line in found if line.startswith("8 more"))
    assert words(rest) == "8 more 24 16.0 ms table 8.00 ms 40.0 % 160 mJ 80.0 mJ"


def test_both_levels_of_error_are_shown():
    found = "\n".join(lines(run()))
    assert (
        "40 ops add up to 98.0 ms, measured by onnxruntime's profiler (50 calls, less the 2.70 µs that it adds to each)"
        in found
    )
    errors = "errors, predicted against measured: 25.0 % in the median of |op| (30 ops above that, 97.0 % of the time), +94 % of the sum"
    assert errors in found
    assert "+100 % of the whole" in found
    plain = "\n".join(lines(run(summary={**SUMMARY, "added": 0.0, "how": "a clock"})))
    assert "by a clock (50 calls)" in plain
    assert "|op| (30 ops)" in plain


def test_ops_that_could_not_be_timed_say_why():
    found = lines(run(summary={"unavailable": "It cannot be loaded."}))
    assert "ops unavailable: It cannot be loaded." in found
    assert not any(line.startswith("op class") for line in found)


def test_ops_without_a_price_make_totals_a_lower_limit():
    joules = {**SEEN, "at_least": True, "unpriced": ["fft_2"]}
    found = lines(
        run(joules=joules), run("m onnxruntime 8x8", joules={**UNSEEN, **{k: joules[k] for k in ("at_least", "unpriced")}})
    )
    assert "at least 200 ms" in found[2]
    assert "at least 1.00 J" in found[3]
    assert "at least 750 mJ" in "\n".join(found)
    assert 'Without a price, so totals say "at least": fft_2.' in found


@pytest.mark.parametrize(
    ("origin", "sentence"),
    [
        ("plan", "the plan of this folder says 300 ms and 1.00 J (modelled)"),
        ("rewrite", "when it was rewritten it took 300 ms (measured)"),
    ],
)
def test_a_folder_is_held_against_what_it_promised(origin, sentence):
    assert sentence in lines(run(seconds={**SECONDS, "predicted": 0.3, "predicted_from": origin}))


def test_seconds_of_both_kinds_say_which_share_has_a_law():
    promise = {**SECONDS["from_profile"], "table_share": 0.97}
    assert "table 97.0 %" in lines(run(seconds={**SECONDS, "from_profile": promise}))[2]


def test_a_difference_is_predicted_beside_measured():
    difference = {"workload": "1x8", "predicted": 0.5, "measured": 0.625, "low": 0.6, "high": 0.65, "sign": "right"}
    found = lines(run(), run("out onnxruntime 1x8"), differences=[difference], notes=["A note."])
    sentence = "1x8: the second takes 0.625 of the seconds of the first (measured, 0.600 to 0.650), predicted 0.500 (modelled): sign right"
    assert sentence in found
    assert "A note." in found
    assert found.count(f"joules unavailable: {REASON}") == 1


def test_tables_fit_a_terminal():
    long = run("minilm-dynamo onnxruntime 1x128", classes=[row("matmul_integer_to_float", share=0.5)])
    assert max(len(line) for line in text(long).splitlines()) <= 130
