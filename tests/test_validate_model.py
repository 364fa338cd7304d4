"""`szilard validate-model`: the verdict as JSON and as text (command_line_validate.py), and one sentence for a bad file."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from szilard.cost_model.errors import InputError
from szilard.cost_model.measurement import write_measurements
from szilard.rewriter.command_line import app
from szilard.rewriter.command_line_validate import validation_text
from szilard.rewriter.validate_model import validate_model

from .hidden_truth import microbenchmarks, models
from .test_validate import calibrated


@pytest.fixture
def files(tmp_path):
    """A calibrated profile and measurements of its fit families and of three held-out ones."""
    device, micro, held_out = calibrated()
    profile, measurements = tmp_path / "mine.json", tmp_path / "measurements.csv"
    profile.write_text(json.dumps(device.to_json()))
    write_measurements(measurements, [*micro, *held_out])
    return measurements, profile


def run(*arguments):
    return CliRunner().invoke(app, ["validate-model", *map(str, arguments)])


def test_the_verdict_is_plain_data(files):
    measurements, profile = files
    result = validate_model(measurements, profile)
    assert json.loads(json.dumps(result)) == result
    assert result["measurements"] == str(measurements)
    assert result["calibration"]["families"] == ["copy", "matmul"]
    assert result["split"]["held_out"] == ["bert", "llama", "vit"]
    assert result["tables"][0]["judged"][0]["errors"]["mape"] < 0.03


def test_json_on_stdout(files):
    answer = run(files[0], "--device", files[1], "--held-out", "bert", "--held-out", "vit", "--json")
    assert answer.exit_code == 0, answer.stderr
    assert json.loads(answer.stdout) == validate_model(*files, ["bert", "vit"])


def test_the_text_says_how_every_number_was_had(files):
    answer = run(files[0], "--device", files[1])
    assert answer.exit_code == 0, answer.stderr
    lines = answer.stdout.splitlines()
    result = validate_model(*files)
    assert result["split"]["hash"] in lines[1]
    assert "the hash printed before the fit" in lines[1]
    assert "bert (bert 1 float32 and 5 more), llama (" in lines[1]
    part = run(files[0], "--device", files[1], "--held-out", "bert").stdout.splitlines()[1]
    assert f"part of split {result['split']['hash']} that was printed before the fit" in part
    assert lines[2].startswith("fit of joules: 40 rows, condition ")
    assert "coefficients that predicted joules: 6 measured" in answer.stdout
    assert "joules of whole models, modelled against measured: 18 configs" in answer.stdout
    assert "seconds of whole models, modelled against measured: 18 configs" in answer.stdout
    mine = result["tables"][0]["judged"][0]
    (line,) = [line for line in lines if line.startswith("profile, measured seconds")]
    assert f"{100 * mine['errors']['mape']:.1f} %" in line
    assert "9 of 9" in line
    assert sum(line.endswith("  yes") for line in lines) == 7
    assert "9 changed the joules beyond their uncertainty, 3 of them upwards" in answer.stdout


def test_joules_that_are_unavailable_leave_the_time_table(files):
    path = files[0]
    rows = [
        replace(row, joules=None, joules_low=None, joules_high=None, label="unavailable", reason="this machine has no counter")
        for row in models(np.random.default_rng(1))
    ]
    write_measurements(path, rows)
    text = run(path, "--device", files[1]).stdout
    assert "joules of whole models, unavailable: 18 configs; this machine has no counter" in text
    assert "seconds of whole models, modelled against measured: 18 configs" in text
    assert "coefficients that predicted joules" not in text
    assert "profile, measured seconds" not in text


def test_a_prior_is_shown_as_such(files):
    text = run(files[0], "--device", "h100", "--held-out", "bert").stdout
    assert "6 prior (byte.cache, byte.memory" in text
    assert "baselines fitted on: copy, llama, matmul, vit" in text
    assert "profile and baselines" not in text
    assert "note: h100 records no calibration" in text


def test_bad_input_is_one_sentence(files, tmp_path):
    write_measurements(tmp_path / "micro.csv", microbenchmarks(np.random.default_rng(0)))
    (tmp_path / "bad.csv").write_text("config,family,scope,seconds\na,bert,model,fast\n")
    for arguments, sentence in [
        ((tmp_path / "none.csv", "--device", "h100"), "cannot be read"),
        ((tmp_path / "bad.csv", "--device", "h100"), "Line 2 of"),
        ((tmp_path / "micro.csv", "--device", files[1]), "fitted on every family"),
        ((files[0], "--device", files[1], "--held-out", "copy"), "fitted on the family copy"),
        ((files[0], "--device", "b300"), "There is no device 'b300'"),
    ]:
        answer = run(*arguments)
        assert answer.exit_code == 2
        assert sentence in answer.stderr
        assert answer.stderr.count("\n") == 1
        assert answer.stdout == ""
    with pytest.raises(InputError, match="fitted on the family copy"):
        validate_model(*files, ["copy"])


@pytest.mark.parametrize(("scope", "words"), [("class", "classes of ops"), ("op", "single ops"), ("model", "whole models")])
def test_the_text_says_what_a_row_is_of(scope, words):
    table = {"quantity": "seconds", "scope": scope, "label": "unavailable", "configs": 2, "reason": "no clock"}
    split = {"configs": {}, "fit": [], "hash": "0", "promised": None}
    result = {"device": "d", "measurements": "m.csv", "calibration": {}, "coefficients": {}, "notes": [], "split": split}
    assert f"seconds of {words}, unavailable: 2 configs" in validation_text({**result, "tables": [table]})


def test_a_fit_that_solved_for_nothing_jointly_has_no_condition():
    fit = {"rows": 3, "condition": None, "residual": 0.05, "at_prior": []}
    split = {"configs": {}, "fit": [], "hash": "0", "promised": None}
    result = {"device": "d", "measurements": "m.csv", "coefficients": {}, "notes": [], "split": split, "tables": []}
    for condition, words in ((None, "3 rows, median error"), (6.5, "3 rows, condition 6.5, median error")):
        record = {"fits": {"seconds": {**fit, "condition": condition}}}
        assert f"fit of seconds: {words} 5.0 %" in validation_text({**result, "calibration": record})
