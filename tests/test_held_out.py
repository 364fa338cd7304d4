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
    families, named = ["copy", "matmul"], ["bert", "llama", "vit"]
    device = fitted(*families, held_out=named, split_hash=split_hash(families, named))
    # What was promised need not all be there: bert alone is as new to the profile as it was.
    found = split_families(ROWS, device, ["bert"])
    assert (found.promised, found.unpromised) == (True, ())
    assert found.hash != device.calibration["split_hash"]
    assert split_families(ROWS, device).promised is True
    odd = replace(ROWS[3], family="minilm", config="minilm int8")
    found = split_families([*ROWS, odd], device)
    assert (found.promised, found.unpromised) == (False, ("minilm",))


def test_a_record_that_contradicts_its_own_hash_promises_nothing():
    families, named = ["copy", "matmul"], ["bert", "vit"]
    device = fitted(*families, held_out=[*named, "llama"], split_hash=split_hash(families, named))
    assert split_families(ROWS, device).promised is True, "the very split that was hashed"
    found = split_families(ROWS, device, ["bert"])
    assert (found.promised, found.unpromised) == (False, ("bert",))


def test_what_counts_as_a_family_is_shown():
    rows = [*ROWS, replace(ROWS[2], config="bert again"), ROWS[2]]
    assert split_families(rows, fitted("copy", "matmul")).configs == {"bert": ("bert", "bert again"), "vit": ("vit",)}


def test_a_profile_cannot_be_judged_by_what_it_was_fitted_on():
    with pytest.raises(InputError, match="fitted on the family matmul, which therefore cannot judge it"):
        split_families(ROWS, fitted("copy", "matmul"), ["matmul", "bert"])
    with pytest.raises(InputError, match=r"fitted on every family of these measurements \(bert, copy, matmul, vit\)"):
        split_families(ROWS, fitted("copy", "matmul", "bert", "vit", "llama"))


def test_a_family_that_is_not_there_is_named():
    with pytest.raises(InputError, match="have no family llama; they hold bert, copy, matmul, vit"):
        split_families(ROWS, PRIOR, ["llama", "bert"])
