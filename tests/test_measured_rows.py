"""Rows of measurements.csv: joules only from a counter, one config for each row, and the original of a rewrite by name."""

import pytest

from szilard.cost_model.errors import InputError
from szilard.cost_model.measurement import read_measurements
from szilard.cost_model.replayed_meter import ReplayedMeter
from szilard.rewriter.measured_rows import FILE, WHOLE_CALLS, csv_path, measured_rows, save_rows

SECONDS = {"measured": 2e-3, "low": 1e-3, "high": 3e-3, "from_profile": {"value": 1.5e-3}}
UNSEEN = {"measured": None, "low": None, "high": None, "modelled": 0.75, "label": "modelled", "unavailable": "No counter."}
LOG = {"temperature": 41.0, "clock": 1980.0, "power_limit": 700.0, "throttle": ["power cap", "heat"], "device": "A card"}
SEEN = {
    "measured": 0.5,
    "low": 0.4,
    "high": 0.6,
    "label": "measured",
    "reason": "A counter.",
    "log": {**LOG, "driver": "550.1"},
}
MATMUL = {"kind": "matmul", "measured": 1e-3, "low": 0.0, "high": 2e-3, "predicted": 9e-4, "joules_predicted": 0.2}
NOTHING = {**MATMUL, "kind": "reshape", "measured": 0.0, "predicted": 0.0, "joules_predicted": 0.0}


def run(config="m onnxruntime 1x8", workload="1x8", joules=UNSEEN, classes=(MATMUL, NOTHING)):
    return {
        "config": config,
        "workload": workload,
        "work": {"flop.float32": 1e9, "launch": 2.0},
        "seconds": SECONDS,
        "joules": {**joules, "from_profile": {"value": 0.3}},
        "classes": [{**each, "work": {"flop.float32": 1e9, "launch": 1.0}} for each in classes],
    }


def rows(*runs, differences=()):
    return measured_rows({"machine": "A processor", "runs": list(runs), "differences": list(differences)}, "bert")


def test_modelled_joules_stay_out_since_they_would_judge_the_model_by_itself():
    whole, ops = rows(run())
    assert (whole.scope, whole.config, whole.family) == ("model", "m onnxruntime 1x8", "bert")
    assert (whole.joules, whole.label, whole.reason) == (None, "unavailable", "No counter.")
    assert (whole.seconds, whole.seconds_low, whole.seconds_high) == (2e-3, 1e-3, 3e-3)
    assert (whole.predicted_seconds, whole.predicted_joules) == (1.5e-3, 0.3)
    assert whole.device == "A processor"
    assert (ops.scope, ops.config) == ("class", "m onnxruntime 1x8 matmul")
    assert (ops.joules, ops.label, ops.reason) == (None, "unavailable", WHOLE_CALLS)
    assert (ops.predicted_seconds, ops.predicted_joules) == (9e-4, 0.2)


def test_a_counter_brings_joules_and_what_the_sensors_said():
    whole, ops = rows(run(joules=SEEN))
    assert (whole.joules, whole.joules_low, whole.joules_high, whole.label) == (0.5, 0.4, 0.6, "measured")
    assert (whole.temperature, whole.clock, whole.power_limit) == (41.0, 1980.0, 700.0)
    assert (whole.throttle, whole.device, whole.driver) == ("power cap; heat", "A card", "550.1")
    assert ops.joules is None
    assert ops.device == "A card"


def test_a_rewrite_names_the_config_of_its_original_at_the_same_shape():
    runs = [run(f"{name} onnxruntime {shape}", shape, classes=()) for shape in ("1x8", "2x8") for name in ("m", "out")]
    found = {row.config: row.rewritten_from for row in rows(*runs, differences=[{}, {}])}
    assert found["m onnxruntime 1x8"] == ""
    assert found["out onnxruntime 1x8"] == "m onnxruntime 1x8"
    assert found["out onnxruntime 2x8"] == "m onnxruntime 2x8"
    assert {row.rewritten_from for row in rows(*runs)} == {""}


def test_the_file_reads_back(tmp_path):
    save_rows(tmp_path / FILE, rows(run(joules=SEEN)))
    assert read_measurements(tmp_path / FILE) == rows(run(joules=SEEN))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be written: .*--csv"):
        save_rows(tmp_path / "file" / FILE, rows(run()))


def test_what_held_clocks_down_is_replayed_as_it_was_logged(tmp_path):
    save_rows(tmp_path / FILE, rows(run(joules=SEEN)))
    reading = ReplayedMeter(tmp_path / FILE).energy(lambda: None, name="m onnxruntime 1x8")
    assert (reading.joules, reading.label) == (0.5, "replayed")
    assert reading.log.after.throttle == ("power cap", "heat")


def test_only_folders_of_ours_get_a_file_unasked(tmp_path):
    assert csv_path(str(tmp_path), None) is None
    assert csv_path(str(tmp_path / "m.onnx"), None) is None
    for name in ("plan.json", "report.json"):
        (tmp_path / name).touch()
    assert csv_path(str(tmp_path), None) == tmp_path / FILE
    assert csv_path(str(tmp_path), tmp_path / "mine.csv") == tmp_path / "mine.csv"
