"""A fit becomes a profile that says what was fitted and what was not, and a profile the prior of the next fit."""

import json
from dataclasses import replace

import numpy as np
import pytest

from szilard.cost_model.baselines import fits_of
from szilard.cost_model.device import device_from_json, load_device
from szilard.cost_model.errors import InputError
from szilard.cost_model.fit import Estimate, Fit, fit
from szilard.cost_model.fitted_profile import calibration_record, prior_of, profile_with_fit
from szilard.cost_model.measurement import split_hash

from .hidden_truth import TRUTH, microbenchmarks

DEVICE = load_device("h100")
FOUND = Fit({"static": Estimate(110.0, 108.0, 112.0), "link": Estimate(1e-12, 5e-13, 2e-12)}, 3.0, 0.01, 40, ("link",))


def test_fitted_coefficients_say_so_and_the_others_stay():
    fitted = profile_with_fit(DEVICE, FOUND, "Fitted on 40 runs.")
    static = fitted.coefficients["static"]
    assert (static.value, static.low, static.high, static.unit) == (110.0, 108.0, 112.0, "W")
    assert (static.provenance, static.source) == ("measured", "Fitted on 40 runs.")
    assert {key: c for key, c in fitted.coefficients.items() if key != "static"} == {
        key: c for key, c in DEVICE.coefficients.items() if key != "static"
    }
    simulated = profile_with_fit(DEVICE, FOUND, "Fitted on a simulated meter.", provenance="modelled")
    assert simulated.coefficients["static"].provenance == "modelled"


def test_an_outcome_that_is_no_profile_is_refused():
    limit = DEVICE.value("power_limit")
    hot = replace(FOUND, coefficients={"static": Estimate(limit, limit, limit)})
    with pytest.raises(InputError, match="h100 has a power_limit that static power alone reaches"):
        profile_with_fit(DEVICE, hot, "Fitted on 40 runs.")


def test_the_prior_of_a_profile():
    prior = prior_of(DEVICE, ["static", "launch", "unheard.of"])
    assert prior.keys() == {"static", "launch"}
    static = DEVICE.coefficients["static"]
    assert prior["static"] == Estimate(static.value, static.low, static.high)


def test_from_measurements_to_a_profile_on_disk():
    rows = microbenchmarks(np.random.default_rng(0))
    found = fit([row.design for row in rows], [row.joules for row in rows if row.joules], prior_of(DEVICE, TRUTH), draws=20)
    record = calibration_record(rows, {"joules": found}, ["vit", "bert"], "2025-01-01", {"device": "Hidden"})
    assert record["families"] == ["copy", "matmul"]
    assert record["held_out"] == ["bert", "vit"]
    assert record["split_hash"] == split_hash(["copy", "matmul"], ["bert", "vit"])
    assert record["rows"] == record["fits"]["joules"]["rows"] == 40
    assert record["condition"] == found.condition
    assert record["fits"]["joules"]["at_prior"] == []
    assert fits_of(record["baselines"]["joules"]).keys() == {"mean power x time", "flops only", "a x flops + b x bytes"}
    profile = replace(profile_with_fit(DEVICE, found, "Fitted on 40 runs."), calibration=record)
    again = device_from_json(json.loads(json.dumps(profile.to_json())), "mine.json")
    assert again == profile
    for key, truth in TRUTH.items():
        assert again.coefficients[key].low <= truth <= again.coefficients[key].high, key
