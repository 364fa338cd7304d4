"""Conversions between sites on codes: the solver pays them once a value and gives what trying all plans gives. Covers edges.py."""

import itertools
from dataclasses import replace
from math import inf, isfinite

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.cost_model.plan import Budget, Choice, Option
from szilard.rewriter.backend import groups_of
from szilard.rewriter.edges import Edge, edges_of, paid
from szilard.rewriter.solve import solve

from .nets import NetBuilder


def choice(name: str, joules: float, error: float) -> Choice:
    leave = Option("leave", 1.0, 1.0, "measured")
    return Choice(
        name, "conv", "leave", (leave, Option("int8_conv", joules, joules, "measured", error, quantized=True)), (name,), "r", ""
    )


@st.composite
def networks(draw):
    """Up to five sites, values that one of them or nothing writes, and readers of each."""
    number = st.floats(0.01, 1.0)
    names = [f"s{i}" for i in range(draw(st.integers(1, 5)))]
    choices = [choice(name, draw(st.floats(0.01, 1.5)), draw(number)) for name in names]
    edges = [
        Edge(
            f"v{i}", draw(st.sampled_from(["", *names])), tuple(draw(st.lists(st.sampled_from(["", *names]), min_size=1, unique=True))),
            draw(number), draw(number | st.just(inf)), draw(st.floats(0, 0.3) | st.just(inf)),
        )
        for i in range(draw(st.integers(0, 5)))
    ]  # fmt: skip
    return choices, edges, draw(st.floats(0, 3))


@settings(max_examples=80, deadline=None)
@given(networks())
def test_equals_trying_all_plans(network):
    choices, edges, limit = network
    solution = solve(choices, Budget(error=limit), edges=edges)
    best = []
    for actions in itertools.product(("leave", "int8_conv"), repeat=len(choices)):
        on = {c.site for c, action in zip(choices, actions, strict=True) if action != "leave"}
        joules = sum(c.option(action).joules for c, action in zip(choices, actions, strict=True))
        error = sum(c.option(action).error for c, action in zip(choices, actions, strict=True))
        for edge in edges:
            if edge.producer not in on and on.intersection(edge.consumers):
                joules, error = joules + edge.quantize, error + edge.error
            if edge.producer in on and set(edge.consumers) - on:
                joules += edge.dequantize
        if (
            isfinite(joules)
            and error <= limit
            and all(c.option(a).error <= limit for c, a in zip(choices, actions, strict=True))
        ):
            best.append(joules)
    assert solution.joules == pytest.approx(min(best), rel=1e-5)
    assert solution.error <= limit * (1 + 1e-9)


def test_a_dear_link_of_a_chain_runs_on_codes_to_save_conversions():
    edges = [Edge("x", "", ("a",), 0.1, 0.1), Edge("y", "a", ("b",), 0.4, 0.4), Edge("z", "b", ("c",), 0.4, 0.4)]
    made = [choice("a", 0.2, 0.0), choice("b", 1.1, 0.0), choice("c", 0.2, 0.0)]
    solution = solve(made, Budget(), edges=edges)
    assert [c.action for c in solution.choices] == ["int8_conv"] * 3
    assert solution.joules == pytest.approx(1.6)
    assert [each.value for each in solution.converted] == ["x"]
    assert [c.action for c in solve([made[1]], Budget(), edges=edges[1:2]).choices] == ["leave"]


def test_a_value_with_many_readers_is_converted_once():
    edges = [Edge("x", "", ("a", "b", "c"), 0.5, 0.5, 0.01)]
    solution = solve([choice(name, 0.7, 0.0) for name in "abc"], Budget(), edges=edges)
    assert solution.joules == pytest.approx(2.6)
    assert solution.error == pytest.approx(0.01)
    (spent,) = paid(solution.choices, edges)
    assert (spent.quantized, spent.dequantized, spent.joules) == (True, False, 0.5)


def test_what_a_locked_plan_spends_on_conversions_is_no_reason_to_refuse_it():
    edges = [Edge("x", "", ("a",), 0.1, 0.1, 0.5), Edge("y", "", ("b",), 0.1, 0.1, 0.5)]
    locked = replace(choice("a", 0.5, 0.0), action="int8_conv", locked=True)
    solution = solve([locked, choice("b", 0.5, 0.0)], Budget(error=0.01), edges=edges)
    assert [c.action for c in solution.choices] == ["int8_conv", "leave"]
    assert solution.error == pytest.approx(0.5)


def test_edges_of_a_net_name_who_writes_and_who_reads():
    from szilard.passes.find_conv import find_conv

    net = NetBuilder()
    x = net.input("x", 1, 4, 6, 6)
    first = net.op("conv", x, net.weight("w1", 4, 4, 1, 1), shape=(1, 4, 6, 6), groups=1)
    relu = net.op("relu", first)
    second = net.op("conv", relu, net.weight("w2", 4, 4, 1, 1), shape=(1, 4, 6, 6), groups=1)
    total = net.op("add", relu, second)
    built = net.net(total)
    sites, _ = find_conv(built)
    groups = groups_of(sites)
    found = {edge.value: edge for edge in edges_of(groups, [choice(group.id, 0.5, 0.0) for group in groups], built)}
    assert (found[x].producer, found[x].consumers) == ("", (groups[0].id,))
    assert (found[relu].producer, found[relu].consumers) == (groups[0].id, (groups[1].id, ""))
    assert (found[second].producer, found[second].consumers) == (groups[1].id, ("",))
    assert edges_of(groups, [], built) == []


@pytest.mark.parametrize("over", [1e-9, 1e-7, 1e-5, 2e-4])
def test_a_limit_far_below_the_error_of_an_edge_is_kept_to_the_last_digit(over):
    """The solver takes limits in the scale of the greatest error: one of 1 let plans pass a limit of 0.001 by 0.0000009, and then found no
    plan at all among those that are as cheap."""
    error = 1e-3 * (1 + over) / 3
    choices = [choice(name, 0.2, error) for name in "abc"] + [choice("d", 0.9, 0.0)]
    edges = [Edge("x", "", ("d",), 0.5, 0.5, 1.0)]
    found = solve(choices, Budget(error=1e-3), edges=edges)
    assert found.error <= 1e-3 * (1 + 1e-12)
    assert found.error == pytest.approx(2 * error)
