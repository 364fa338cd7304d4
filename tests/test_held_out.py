"""A profile is judged by families that it has not seen, and only by those."""

from dataclasses import replace

import pytest

from szilard.cost_model.device import load_device
from szilard.cost_model.errors import InputError
from szilard.cost_model.held_out import split_families
from szilard.cost_model.measurement import Measurement, split_hash

ROWS = [
    Measurement(name, name, "model", {}, 1.0, 1.0, 1.0, None, None, None, "unavailable")
    for name in ("copy", "matmul", "bert", "vit")
]
PRIOR = load_device("cpu")


def fitted(*families, **more):
    return replace(PRIOR, calibration={"families": list(families), **more})


def test_by_default_every_unseen_family_judges():
    found = split_families(ROWS, fitted("copy", "matmul"))
    assert (found.fit, found.held_out) == (("copy", "matmul"), ("bert", "vit"))
    assert found.hash == split_hash(["copy", "matmul"], ["bert", "vit"])
    assert found.promised is None


def test_families_can_be_named():
    found = split_families(ROWS, fitted("matmul"), ["vit"])
    assert (found.fit, found.held_out) == (("matmul",), ("vit",))
    # Without a record, what is not held out is there for the baselines.
    found = split_families(ROWS, PRIOR, ["vit"])
    assert (found.fit, found.held_out) == (("bert", "copy", "matmul"), ("vit",))
    assert split_families(ROWS, PRIOR).fit == ()


def test_the_promise_made_before_the_fit_is_checked():
    device = fitted("copy", "matmul", split_hash=split_hash(["copy", "matmul"], ["bert", "vit"]))
    assert split_families(ROWS, device).promised is True
    assert split_families(ROWS, device, ["bert"]).promised is False


def test_a_profile_cannot_be_judged_by_what_it_was_fitted_on():
    with pytest.raises(InputError, match="fitted on the family matmul, which therefore cannot judge it"):
        split_families(ROWS, fitted("copy", "matmul"), ["matmul", "bert"])
    with pytest.raises(InputError, match=r"fitted on every family of these measurements \(bert, copy, matmul, vit\)"):
        split_families(ROWS, fitted("copy", "matmul", "bert", "vit", "llama"))


def test_a_family_that_is_not_there_is_named():
    with pytest.raises(InputError, match="have no family llama; they hold bert, copy, matmul, vit"):
        split_families(ROWS, PRIOR, ["llama", "bert"])
