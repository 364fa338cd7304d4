"""A calibration record is refused or can be read by all that reads it, whatever somebody wrote into the file."""

import copy
import json
from contextlib import suppress

import numpy as np
import pytest

from szilard.cost_model.baselines import features
from szilard.cost_model.calibration_schema import FEATURES, check_calibration
from szilard.cost_model.device import device_from_json, load_device
from szilard.cost_model.errors import InputError
from szilard.cost_model.fit import fit
from szilard.cost_model.fitted_profile import calibration_record, prior_of
from szilard.cost_model.validate import validate
from szilard.rewriter.command_line_validate import validation_text
from szilard.rewriter.device_text import device_text
from szilard.rewriter.json_text import plain

from .hidden_truth import TRUTH, microbenchmarks, models

DEVICE = load_device("h100")
ROWS = microbenchmarks(np.random.default_rng(0))
JUDGES = models(np.random.default_rng(1))
FIT = fit([row.design for row in ROWS], [row.joules for row in ROWS], prior_of(DEVICE, TRUTH), draws=20)
RECORD = calibration_record(ROWS, {"joules": FIT}, ["vit", "bert"], "2025-01-01", {"device": "Hidden"})
RECORD["probe_seconds"] = 1e-3
GONE = object()
WORDS = (None, True, -1, 0, 1, 2.5, 1e12, 10**400, float("nan"), "", "horses", [], ["a"], [1], {}, {"a": 1}, {"joules": {}})


def places(data, path=()):
    """Paths to everything inside the record."""
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def read(record):
    """Everything that reads a record, as the commands do."""
    device = device_from_json({**DEVICE.to_json(), "calibration": record}, "mine.json")
    device_text(device)
    verdict = validate([*ROWS, *JUDGES], device)
    validation_text({"measurements": "m.csv", **plain(verdict), "calibration": plain(device.calibration)})


def test_what_is_written_is_read():
    read(json.loads(json.dumps(RECORD)))
    read({})
    check_calibration({"a field of a later version": 1}, "mine.json")


def test_baselines_know_the_features_that_a_record_may_hold():
    assert set(features(ROWS[0])) == set(FEATURES)


@pytest.mark.parametrize("place", list(places(RECORD)), ids=str)
def test_a_changed_record_is_refused_or_does_no_harm(place):
    for word in (GONE, *WORDS):
        record = copy.deepcopy(RECORD)
        inside = record
        for key in place[:-1]:
            inside = inside[key]
        inside[place[-1]] = word
        if word is GONE:
            del inside[place[-1]]
        with suppress(InputError):
            read(record)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("baselines", []),
        ("baselines", {"watts": {}}),
        ("baselines", {"seconds": {"flops only": {"horses": 1.0}}}),
        ("baselines", {"seconds": {"flops only": 1.0}}),
        ("fits", {"joules": {}}),
        ("machine", "x"),
        ("machine", {"device": 5}),
        ("held_out", 5),
        ("rows", True),
        ("condition", "large"),
        ("split_hash", 3),
        ("date", None),
        ("probe_seconds", 0),
        ("measuring_seconds", "long"),
    ],
)
def test_the_field_at_fault_is_named(field, value):
    with pytest.raises(InputError, match=f"mine.json needs .* under '{field}' of 'calibration'; take the file as"):
        check_calibration({**RECORD, field: value}, "mine.json")


def test_no_object_is_no_record():
    for record, name in (([], "a list"), ("x", "a text"), (None, "null"), (3, "a number"), (True, "a truth value")):
        with pytest.raises(InputError, match=f"needs an object under 'calibration', not {name}"):
            check_calibration(record, "mine.json")
