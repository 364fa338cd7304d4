"""The gate between passes (rewriter/apply.py), with passes that only say how far they move the outputs."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from szilard.cost_model.plan import Choice, Option
from szilard.rewriter.apply import FLIPPED, apply_choices


@dataclass(frozen=True)
class Moves:
    name: str
    error: float
    padded: float | None = None

    def apply(self, graph, choices, sites):
        graph |= {"error": self.error, "padded": self.error if self.padded is None else self.padded}
        return len(choices)


def applied(*steps, tolerance):
    """`steps`: (actions, error of the outputs behind that pass, the same with padding if that differs); `tolerance` of an inexact pass."""
    passes = tuple((frozenset(actions), Moves(f"pass_{i}", *errors)) for i, (actions, *errors) in enumerate(steps))
    backend = SimpleNamespace(
        passes=lambda prepared: passes, clone=dict, node_count=len, lint=lambda graph: None, runtime="onnxruntime",
        print_step=str,
    )  # fmt: skip
    gate = SimpleNamespace(
        sample_error=lambda graph, padding=False: graph["padded" if padding else "error"],
        tolerance=lambda predicted: tolerance,
        rounding=EXACT,
    )
    actions = ("int8_static", "keyed_attention", "fused_attention")
    choices = [
        Choice(action, "linear", action, (Option(action, 1.0, 1.0, "measured"),), (), "onnxruntime", "") for action in actions
    ]
    return apply_choices({}, choices, {}, backend, {}, gate)


def actions_of(found):
    return {choice.site: choice.action for choice in found.choices}


EXACT, LOOSE = 1e-9, 0.1


@pytest.mark.parametrize(("share", "kept"), [(0.5 * FLIPPED, True), (2 * FLIPPED, False)])
def test_an_exact_pass_behind_an_inexact_one_may_flip_codes_and_no_more(share, kept):
    behind = ("keyed_attention",), 0.004 * (1 + share)
    found = applied((("fused_attention", "keyed_attention"), 1e-12), (("int8_static",), 0.004), behind, tolerance=LOOSE)
    assert actions_of(found)["keyed_attention"] == ("keyed_attention" if kept else "fused_attention")
    assert found.graph["error"] == pytest.approx(0.004 * (1 + share) if kept else 0.004)
    assert bool(found.rolled_back) is not kept


@pytest.mark.parametrize(("first", "kept"), [("fused_attention", False), ("int8_static", True)])
def test_what_padding_gives_counts_until_something_is_rounded(first, kept):
    before = (("int8_static",), 1e-12, 1.0) if first == "int8_static" else (("fused_attention",), 1e-12, 1e-12)
    found = applied(before, (("keyed_attention",), 1e-12, 1e-3), tolerance=LOOSE)
    assert (actions_of(found)["keyed_attention"] == "keyed_attention") is kept


def test_an_exact_pass_on_the_model_as_it_is_may_only_round():
    found = applied((("fused_attention",), 1e-6), (("int8_static",), 0.004), tolerance=LOOSE)
    assert actions_of(found)["fused_attention"] == "leave"
    assert "moved by 1e-06" in found.rolled_back[0]
    assert actions_of(found)["int8_static"] == "int8_static"


def test_where_the_first_of_two_passes_is_undone_nothing_of_them_is_there():
    found = applied((("fused_attention", "keyed_attention"), 1e-6), (("keyed_attention",), 1e-12), tolerance=LOOSE)
    assert actions_of(found)["keyed_attention"] == "leave"
    assert not found.steps
