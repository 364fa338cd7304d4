"""What a request refuses on every runtime (rewriter/refusals.py)."""

from szilard.cost_model.plan import Budget
from szilard.rewriter.backend import Group
from szilard.rewriter.refusals import left_out, refusals

ACTIONS = {"leave": "", "fused_attention": "", "keyed_attention": "", "int8_static": "", "int4_weight": "its dtype is float64"}


def test_only_what_is_exact_for_all_inputs_is_left_of_an_exact_request():
    found = refusals(ACTIONS, exact=True, budget=Budget(), calibration=None)
    assert [action for action, reason in found.items() if not reason] == ["leave", "fused_attention"]
    assert "every key is hidden" in found["keyed_attention"]
    assert found["int4_weight"] == "its dtype is float64"
    assert found == refusals(ACTIONS, exact=False, budget=Budget(error=0.0), calibration=None)
    with_budget = refusals(ACTIONS, exact=False, budget=Budget(), calibration=None)
    assert [action for action, reason in with_budget.items() if not reason] == ["leave", "fused_attention", "keyed_attention"]
    assert with_budget["int8_static"].endswith("give --calib")


def test_without_data_what_the_weights_tell_is_taken_where_that_was_asked_for():
    actions = {**ACTIONS, "int8_weight": "", "bfloat16": "", "int8_column_weight_merged": "", "int8_rows": ""}
    without = refusals(actions, exact=False, budget=Budget(), calibration=None)
    assert without["int8_weight"].endswith("give --calib, or --data-free to go by the weights")
    asked = refusals(actions, exact=False, budget=Budget(), calibration=None, data_free=True)
    assert {a for a, reason in asked.items() if not reason} - set(ACTIONS) == {
        "int8_weight",
        "bfloat16",
        "int8_column_weight_merged",
        "int8_rows",
    }
    assert asked["int8_static"].endswith("give --calib instead of --data-free")
    assert asked["int4_weight"] == "its dtype is float64"


def test_what_is_left_out_is_left_for_that_reason_alone():
    group = Group("layer.0", "linear", ())
    assert left_out(group, {"linear"}, ("layer.*",), ()) == ""
    assert left_out(group, {"conv", "attention"}, (), ()) == "only attention and conv sites were to change"
    assert left_out(group, {"conv"}, (), ("layer.?",)) == "--exclude 'layer.?' names layer.0"
    found = refusals(ACTIONS, exact=False, budget=Budget(), calibration=None, left="no --include names it")
    assert found.pop("leave") == ""
    assert set(found.values()) == {"no --include names it", "its dtype is float64"}
