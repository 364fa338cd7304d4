"""The closed form beside a plan: it asks more bits where errors are large and bits cheap, at the joules that the plan spends."""

from dataclasses import replace

import pytest

from szilard.cost_model.plan import Choice, Option
from szilard.rewriter.asked_bits import FULL_BITS, asked_bits, bits_of


def choice(name: str, error: float, action: str = "int8_static", leave: float = 1.0, price: float = 0.25, **more) -> Choice:
    options = (
        Option("leave", leave, leave, "measured"),
        Option("int8_static", leave - 24 * price, 0.1, "measured", error),
        Option("int4_weight", leave - 0.5 * price, 0.1, "measured", error * 4.0**4),
        Option("int8_dynamic", leave + 1.0, 0.1, "measured", error),
    )
    return Choice(name, "linear", action, options, (name,), "onnxruntime", "", **more)


def test_bits_of_actions():
    wanted = {
        "leave": 32,
        "merged": 32,
        "int8_static": 8,
        "int8_static_merged": 8,
        "int4_weight": 4,
        "int8_hilo": 16,
        "fp8_weight": 8,
    }
    assert {name: bits_of(name) for name in wanted} == wanted
    assert bits_of("fused_attention") is None


def test_four_times_the_error_asks_one_bit_more_and_a_dear_bit_is_asked_less():
    bits = asked_bits([choice("a", 1e-4), choice("b", 4e-4)])
    assert bits["", "b"] - bits["", "a"] == pytest.approx(1.0)
    assert bits["", "a"] + bits["", "b"] == pytest.approx(16.0)
    bits = asked_bits([choice("a", 1e-4), choice("b", 1e-4, leave=100.0, price=4.0)])
    assert bits["", "a"] - bits["", "b"] == pytest.approx(2.0)
    assert 0.25 * bits["", "a"] + 4.0 * bits["", "b"] == pytest.approx(4.25 * 8)


def test_the_exponent_of_a_float_is_no_bit_of_its_error():
    plain = choice("a", 1e-4)
    with_float = replace(plain, options=(*plain.options, Option("bfloat16", 0.3, 0.1, "measured", 1e-5)))
    others = [choice("b", 1e-3), choice("c", 1e-5, "int4_weight")]
    assert asked_bits([with_float, *others]) == asked_bits([plain, *others])


def test_bits_stay_between_the_fewest_and_all():
    bits = asked_bits([choice("a", 1e-9, "int4_weight"), choice("b", 1e-1, "leave")])
    assert 4 <= bits["", "a"] < bits["", "b"] <= FULL_BITS


def test_sites_without_a_decision_and_other_programs_stay_out():
    nothing = replace(choice("c", 1e-4), options=choice("c", 1e-4).options[:1], action="leave")
    refused = choice("d", 1e-4)
    refused = replace(refused, options=(refused.options[0], replace(refused.options[1], reason="no kernel")), action="leave")
    fused = replace(
        choice("e", 1e-4), action="leave", options=(Option("leave", 1, 1, ""), Option("fused_attention", 0.5, 0.5, ""))
    )
    bits = asked_bits([choice("a", 1e-4, program="prefill"), choice("a", 1e-2, program="decode"), nothing, refused, fused])
    assert set(bits) == {("prefill", "a"), ("decode", "a")}
    assert bits["prefill", "a"] == pytest.approx(bits["decode", "a"]) == pytest.approx(8)
