"""The gate between passes (rewriter/apply.py), with passes that only say how far they move the outputs."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from szilard.cost_model.plan import Choice
from szilard.rewriter.apply import FLIPPED, apply_choices


@dataclass(frozen=True)
class Moves:
    name: str
    error: float

    def apply(self, graph, choices, sites):
        graph["error"] = self.error
        return len(choices)


def applied(*steps, tolerance):
    """`steps`: (actions, error of the outputs behind that pass); `tolerance` by the first action of a pass."""
    passes = tuple((frozenset(actions), Moves(f"pass_{i}", error)) for i, (actions, error) in enumerate(steps))
    backend = SimpleNamespace(
        passes=lambda prepared: passes, clone=dict, node_count=len, lint=lambda graph: None, runtime="onnxruntime",
        print_step=str,
    )  # fmt: skip
    gate = SimpleNamespace(
        sample_error=lambda graph: graph["error"],
        tolerance=lambda mine: max(tolerance.get(choice.action, 0.0) for choice in mine),
    )
    actions = ("int8_static", "keyed_attention", "fused_attention")
    choices = [Choice(action, "linear", action, (), (), "onnxruntime", "") for action in actions]
    return apply_choices({}, choices, {}, backend, {}, gate)


def actions_of(found):
    return {choice.site: choice.action for choice in found.choices}


EXACT, LOOSE = 1e-9, 0.1


@pytest.mark.parametrize(("share", "kept"), [(1 + 0.5 * FLIPPED, True), (1 + 2 * FLIPPED, False)])
def test_an_exact_pass_behind_an_inexact_one_may_flip_codes_and_no_more(share, kept):
    steps = (("fused_attention", "keyed_attention"), 1e-12), (("int8_static",), 0.004), (("keyed_attention",), 0.004 * share)
    found = applied(*steps, tolerance={"int8_static": LOOSE, "keyed_attention": EXACT, "fused_attention": EXACT})
    assert actions_of(found)["keyed_attention"] == ("keyed_attention" if kept else "fused_attention")
    assert found.graph["error"] == (0.004 * share if kept else 0.004)
    assert bool(found.rolled_back) is not kept


def test_an_exact_pass_on_the_model_as_it_is_may_only_round():
    steps = (("fused_attention",), 1e-6), (("int8_static",), 0.004)
    found = applied(*steps, tolerance={"int8_static": LOOSE, "fused_attention": EXACT})
    assert actions_of(found)["fused_attention"] == "leave"
    assert "moved by 1e-06" in found.rolled_back[0]
    assert actions_of(found)["int8_static"] == "int8_static"
