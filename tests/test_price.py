"""Conservation laws of prices, and that joules decide: static watts and the price of a byte each flip which option is cheaper."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.cost_model import kinds
from szilard.cost_model.compulsory import compulsory_bytes
from szilard.cost_model.cost import TERMS
from szilard.cost_model.counts import Counts
from szilard.cost_model.device import device_names, load_device
from szilard.cost_model.errors import InputError
from szilard.cost_model.price import price_counts, price_group, price_net, price_op, with_seconds

from .priced_nets import net_of

CPU = load_device("cpu")
DEVICES = [load_device(name) for name in device_names()]


def block(rows=64, width=48, constants=("w", "u", "g")):
    """x -> matmul -> gelu -> matmul -> add x -> layer norm, with a view in between."""
    shapes = {
        "x": (rows, width),
        "w": (width, 4 * width),
        "h": (rows, 4 * width),
        "a": (rows, 4 * width),
        "v": (4 * width * rows,),
    }
    shapes |= {
        "b": (rows, 4 * width),
        "u": (4 * width, width),
        "d": (rows, width),
        "s": (rows, width),
        "g": (width,),
        "y": (rows, width),
    }
    lines = [
        ("matmul", ["x", "w"], ["h"]),
        ("gelu", ["h"], ["a"]),
        ("reshape", ["a"], ["v"]),
        ("reshape", ["v"], ["b"]),
        ("matmul", ["b", "u"], ["d"]),
        ("add", ["d", "x"], ["s"]),
        ("layer_norm", ["s", "g"], ["y"]),
    ]
    return net_of(shapes, lines, constants)


@pytest.mark.parametrize("device", DEVICES, ids=lambda d: d.name)
@pytest.mark.parametrize("seconds", [None, 0.5])
def test_terms_add_up_and_nothing_is_below_its_floors(device, seconds):
    net = block()
    cost = price_net(net, device, total_seconds=seconds).total
    assert set(cost.terms) == set(TERMS)
    assert sum(cost.terms.values()) == pytest.approx(cost.joules, rel=1e-12)
    assert cost.joules > cost.bytes * min(device.value("byte.cache"), device.value("byte.memory"))
    assert cost.joules > 1e3 * cost.landauer > 0
    assert cost.bytes >= cost.io_bytes > 0
    for op in net.ops.values():
        each = price_op(op, net, device)
        assert sum(each.terms.values()) == pytest.approx(each.joules, rel=1e-12)
        assert (each.joules == 0) == (op.kind in kinds.FREE | kinds.VIEW)


@pytest.mark.parametrize("device", DEVICES, ids=lambda d: d.name)
def test_a_net_costs_what_its_ops_cost(device):
    net = block()
    found = price_net(net, device)
    assert found.total.joules == pytest.approx(sum(price_op(op, net, device).joules for op in net.ops.values()))
    assert list(found.ops) == list(net.ops)


@given(st.integers(1, 200), st.integers(1, 90), st.integers(0, 50), st.sampled_from(DEVICES))
@settings(max_examples=60, deadline=None)
def test_more_work_never_costs_less(rows, width, more, device):
    small, large = price_net(block(rows, width), device).total, price_net(block(rows + more, width), device).total
    assert large.joules >= small.joules * (1 - 1e-12)
    assert large.seconds >= small.seconds * (1 - 1e-12)
    assert large.landauer >= small.landauer


@given(st.sets(st.integers(0, 6), min_size=1), st.integers(1, 300), st.sampled_from(DEVICES))
@settings(max_examples=80, deadline=None)
def test_fusing_never_raises_modelled_bytes_or_joules(chosen, rows, device):
    net = block(rows)
    members = [net.ops[f"op{i}"] for i in sorted(chosen)]
    fused, apart = price_group(members, net, device), [price_op(op, net, device) for op in members]
    assert fused.bytes <= sum(cost.bytes for cost in apart) + 1e-6
    assert fused.terms["memory"] + fused.terms["cache"] <= sum(c.terms["memory"] + c.terms["cache"] for c in apart) * (1 + 1e-9)
    assert fused.flops == pytest.approx(sum(cost.flops for cost in apart))


def test_a_net_outside_every_cache_reads_each_weight_once_and_hands_nothing_over():
    net = block(rows=8, width=6)
    assert compulsory_bytes(net.ops.values(), net) == 4 * (8 * 6 + 6 * 24 + 24 * 6 + 6 + 8 * 6)
    assert price_net(net, CPU).total.io_bytes == compulsory_bytes(net.ops.values(), net)
    assert price_group(net.ops.values(), net, CPU).bytes == compulsory_bytes(net.ops.values(), net)


def test_inputs_behind_a_view_still_enter_the_net():
    net = net_of({"x": (6,), "h": (2, 3), "y": (2, 3)}, [("reshape", ["x"], ["h"]), ("exp", ["h"], ["y"])])
    assert compulsory_bytes(net.ops.values(), net) == 48


@pytest.mark.parametrize("device", DEVICES, ids=lambda d: d.name)
def test_each_level_pays_its_own_price(device):
    cost = price_net(block(16), device).total
    assert cost.bytes_by_level["cache"] > 0
    assert cost.terms["cache"] == pytest.approx(device.value("byte.cache") * cost.bytes_by_level["cache"])
    assert cost.terms["memory"] == pytest.approx(device.value("byte.memory") * cost.bytes_by_level["memory"])
    linked = price_counts(Counts(link=1e6), device, "other")
    assert linked.terms["link"] == pytest.approx(device.value("link") * 1e6)


def test_values_that_fit_stay_in_the_cache_and_others_go_to_memory():
    weights = 4.0 * (48 * 192 * 2 + 48)
    small, large = price_net(block(16), CPU).total, price_net(block(300_000), CPU).total
    assert small.bytes_by_level["memory"] == pytest.approx(weights)
    assert large.bytes_by_level["memory"] == large.bytes
    tight = price_net(block(16), CPU.with_values({"capacity.cache": 16.0})).total
    assert tight.bytes_by_level["memory"] > small.bytes
    # Every operand passes between the cache and a core, wherever it comes from.
    for total in (small, large, tight):
        assert total.bytes_by_level["cache"] >= total.bytes


def test_operands_that_a_level_does_not_hold_are_read_again():
    def moved(cache, core):
        net = net_of({"a": (512, 512), "b": (512, 512), "y": (512, 512)}, [("matmul", ["a", "b"], ["y"])])
        return price_op(net.ops["op0"], net, CPU.with_values({"capacity.cache": cache, "capacity.core": core})).bytes_by_level

    compulsory = 3 * 4 * 512**2
    assert moved(8e6, 4e6) == {"memory": 0.0, "cache": compulsory, "link": 0.0}  # all three stay in half of the cache
    assert moved(8e6, 48e3)["cache"] > 3 * compulsory
    assert moved(1e6, 48e3)["memory"] > compulsory
    assert moved(1e6, 48e3)["cache"] == moved(8e6, 48e3)["cache"]


def test_unknown_ops_are_named_and_totals_say_at_least():
    net = net_of({"x": (7, 5), "h": (7, 5), "y": (7, 5)}, [(kinds.other("my::Op"), ["x"], ["h"]), ("exp", ["h"], ["y"])])
    total = price_net(net, CPU).total
    assert total.at_least
    assert total.unpriced == ("op0",)
    assert total.bytes == 4 * 140
    assert price_group(net.ops.values(), net, CPU).unpriced == ("op0",)


def test_given_seconds_change_only_the_static_term():
    net = block()
    op = net.ops["op0"]
    modelled, measured = price_op(op, net, CPU), price_op(op, net, CPU, seconds=2.0)
    assert (modelled.label, measured.label) == ("roofline", "measured")
    assert measured.terms["static"] == pytest.approx(2.0 * CPU.value("static"))
    assert {**measured.terms, "static": 0} == {**modelled.terms, "static": 0}
    assert price_op(op, net, CPU, 2.0, "table").label == "table"
    assert with_seconds(modelled, CPU, 2.0).joules == pytest.approx(measured.joules)
    whole = price_net(net, CPU, total_seconds=2.0)
    assert (whole.total.seconds, whole.total.label) == (2.0, "measured")
    some = price_net(net, CPU, seconds={"op0": 2.0})
    assert some.ops["op0"].seconds == 2.0
    assert some.total.label == "roofline"


def test_the_power_limit_stretches_seconds():
    counts = Counts({"float32": 1e12}, 1e6, 1e6, (), launches=1)
    free = price_counts(counts, CPU.with_values({"power_limit": 1e6}), "matmul")
    held = price_counts(counts, CPU.with_values({"power_limit": CPU.value("static") + 0.5}), "matmul")
    assert "power_limit" not in free.seconds_by_bound
    assert held.seconds > free.seconds
    assert held.joules / held.seconds == pytest.approx(CPU.value("static") + 0.5)
    dynamic = sum(joules for term, joules in held.terms.items() if term != "static")
    assert dynamic == pytest.approx(sum(joules for term, joules in free.terms.items() if term != "static"))


def test_small_work_is_bound_by_bytes_and_large_work_by_flops():
    def bounds(rows):
        net = net_of({"a": (rows, 4096), "b": (4096, 4096), "y": (rows, 4096)}, [("matmul", ["a", "b"], ["y"])], ["b"])
        return price_op(net.ops["op0"], net, CPU).seconds_by_bound

    assert "bandwidth.memory" in bounds(1)
    assert "rate.float32 utilisation.matmul" in bounds(4096)


def test_int8_is_cheaper_than_float_for_the_same_product():
    def of(dtype):
        counts = Counts({f"{dtype}.tensor": 1e10}, 1e6, 1e6, launches=1)
        return [price_counts(counts, device, "matmul").joules for device in DEVICES]

    assert all(small < large for small, large in zip(of("int8"), of("float32"), strict=True))


def test_a_dtype_without_a_price_is_refused_by_name():
    with pytest.raises(InputError, match=r"flop\.float128"):
        price_counts(Counts({"float128": 1.0}), CPU, "exp")


# Two ways to run one layer, as they occur: int4 weights move an eighth of the bytes but take twice as long to unpack.
FULL = Counts({"float32.tensor": 1e6}, 4e6, 1e3, launches=1)
NARROW = Counts({"float32.tensor": 1e6, "float32": 2e6}, 5e5, 1e3, launches=1)
FULL_SECONDS, NARROW_SECONDS = 100e-6, 200e-6


def cheaper(device):
    full = price_counts(FULL, device, "matmul", FULL_SECONDS)
    narrow = price_counts(NARROW, device, "matmul_nbits", NARROW_SECONDS)
    return "full" if full.joules < narrow.joules else "narrow"


def test_static_watts_change_which_option_is_cheaper():
    assert cheaper(CPU) == "narrow"
    assert cheaper(CPU.with_values({"static": 10.0})) == "full"


def test_the_price_of_a_byte_changes_which_option_is_cheaper():
    assert cheaper(CPU) == "narrow"
    assert cheaper(CPU.with_values({"byte.memory": CPU.value("byte.memory") / 4})) == "full"


def test_prices_need_no_torch():
    code = "import sys, szilard.cost_model.price; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
