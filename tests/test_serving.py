"""Operating points against every batch priced one by one, and memory against tensors that are really held."""

from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.cost_model.cost import total_cost
from szilard.cost_model.decode import cache_bytes, decode_net
from szilard.cost_model.device import load_device
from szilard.cost_model.errors import InputError
from szilard.cost_model.price import price_net
from szilard.cost_model.serving import (
    OperatingPoint,
    cheapest,
    constant_bytes,
    doubling,
    largest_batch,
    largest_within,
    operating_point,
    spill_batches,
)

from . import tiny_decoder
from .test_decode import at, decoding, found

H100 = load_device("h100")
SMALL_CACHE = H100.with_values({"capacity.cache": 80_000.0, "launch_seconds": 1e-7})
SLOW_UNITS = H100.with_values({"rate.float32": 2e10, "launch_seconds": 1e-7, "capacity.cache": 4e5, "static": 20.0})
SMALL_CORES = SMALL_CACHE.with_values(
    {"capacity.core": 4000.0, "capacity.cache": 4e5, "byte.cache": 2e-9, "bandwidth.cache": 2e11}
)
"""Operands are read again in many small steps as the batch grows."""

DEVICES = {"h100": H100, "small cache": SMALL_CACHE, "slow units": SLOW_UNITS, "small cores": SMALL_CORES}
LIMIT = 180


@cache
def price(name: str, batch: int) -> OperatingPoint:
    net = decoding("by_hand", batch, 90)
    return operating_point(batch, net, price_net(net, DEVICES[name]).total)


def all_of(name: str):
    return [price(name, batch) for batch in range(1, LIMIT + 1)]


@pytest.mark.parametrize("name", ["small cache", pytest.param("slow units", marks=pytest.mark.long), "h100", "small cores"])
def test_the_cheapest_batch_is_that_of_a_search_through_all(name):
    breaks = spill_batches(decoding("by_hand", 1, 90), DEVICES[name])
    best = cheapest(lambda batch: price(name, batch), LIMIT, breaks)
    assert best.joules == pytest.approx(min(point.joules for point in all_of(name)), rel=1e-3)
    latency = price(name, 100).seconds
    assert largest_within(lambda b: price(name, b), LIMIT, latency) == sum(p.seconds <= latency for p in all_of(name))


def test_the_cheapest_batch_may_be_smaller_than_what_fits():
    """A device whose cache the activations leave: more sequences cost more joules each."""
    best = cheapest(lambda b: price("small cache", b), LIMIT, spill_batches(decoding("by_hand", 1, 90), SMALL_CACHE))
    assert best.batch < LIMIT
    assert best.joules < price("small cache", LIMIT).joules


lines = st.lists(st.tuples(st.floats(0.1, 50), st.floats(0.001, 5)), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(lines, st.lists(st.tuples(st.integers(1, 300), st.floats(0, 40)), max_size=3), st.integers(1, 300), st.floats(0, 900))
def test_search_equals_brute_force_on_any_lines_with_jumps(lines, jumps, limit, latency):
    def line(batch: int) -> OperatingPoint:
        joules = max(fixed + slope * batch for fixed, slope in lines)
        joules += sum(height for edge, height in jumps if batch > edge)
        return OperatingPoint(batch, joules / 2, joules / batch, 0.0, 0.0)

    brute = [line(batch) for batch in range(1, limit + 1)]
    assert cheapest(line, limit, [edge for edge, _ in jumps]).joules == pytest.approx(min(point.joules for point in brute))
    assert largest_within(line, limit, latency) == sum(point.seconds <= latency for point in brute)


@pytest.mark.parametrize("name", ["small cache", "h100"])
def test_the_trilemma_product_never_falls_below_its_floor(name):
    for point in all_of(name):
        assert point.trilemma > point.trilemma_floor(DEVICES[name]) > 0
        assert point.trilemma == pytest.approx(point.seconds * point.joules / (point.batch / point.seconds))


def test_a_step_with_nothing_but_reads_attains_the_floor():
    """A copy of all weights and caches at full bandwidth, without launches or static watts: the floor has no slack of its own."""
    device = H100.with_values({"static": 0.0, "launch": 0.0, "launch_seconds": 0.0, "byte.cache": 0.0})
    net = decoding("by_hand", 3, 90)
    read = constant_bytes(net)
    seconds, joules = read / device.values["bandwidth.memory"], device.values["byte.memory"] * read
    cost = replace(total_cost([]), seconds=seconds, joules=joules)
    point = operating_point(3, net, cost)
    assert point.trilemma == pytest.approx(point.trilemma_floor(device))


def test_what_must_be_read_is_weights_once_and_every_cache():
    model = tiny_decoder.TinyDecoder("by_hand")
    tables = model.embed.weight.nbytes  # only rows of it are read
    weights = sum(p.nbytes for p in model.parameters()) - tables
    for batch in (1, 7):
        _, held = tiny_decoder.counted_step(batch, 90)
        assert constant_bytes(decoding("by_hand", batch, 90)) == pytest.approx(weights + held, rel=1e-3)


def test_as_many_sequences_fit_as_their_tensors_do():
    """Sequences are added one by one, with the bytes that torch holds for them, until memory is full."""
    weights = float(sum(p.nbytes for p in tiny_decoder.TinyDecoder("by_hand").parameters()))
    _, one = tiny_decoder.counted_step(1, 33)
    memory, overhead, count, used = 4e6, 3e5, 0, weights + 3e5
    while used + one <= memory:
        used, count = used + one, count + 1
    assert largest_batch(memory, weights, overhead, cache_bytes(at(found("by_hand"), 34))) == count > 50


def test_what_does_not_fit_is_a_sentence():
    with pytest.raises(InputError, match=r"^Weights of 9 GB and an overhead of 2 GB do not fit in 10 GB of memory;"):
        largest_batch(1e10, 9e9, 2e9, 1e6)
    with pytest.raises(
        InputError, match="1 GB of memory are left beside the weights, and the cache of one sequence takes 2 GB;"
    ):
        largest_batch(1e10, 9e9, 0.0, 2e9)
    assert largest_batch(1e10, 9e9, 0.0, 1e9) == 1


def test_doubling_ends_at_the_limit():
    assert [doubling(limit) for limit in (1, 2, 5, 8)] == [(1,), (1, 2), (1, 2, 4, 5), (1, 2, 4, 8)]


def test_spills_are_where_the_price_jumps():
    """Between two breaks the joules of a step are a convex function of the batch; at one they jump upwards."""
    breaks = set(spill_batches(decoding("by_hand", 1, 90), SMALL_CACHE))
    joules = [point.joules * point.batch for point in all_of("small cache")]
    slopes = [after - before for before, after in pairwise(joules)]
    jumps = {batch for batch in range(2, LIMIT - 1) if slopes[batch - 1] > 1.2 * slopes[batch - 2] and batch > 5}
    assert jumps
    assert jumps <= breaks | {edge + 1 for edge in breaks}


@pytest.mark.parametrize("name", ["small cache", "h100", "small cores"])
def test_a_larger_batch_is_never_faster(name):
    """What `largest_within` stands on, tiles that are read again included."""
    seconds = [point.seconds for point in all_of(name)]
    assert seconds == sorted(seconds)


def test_small_cores_make_steps_that_no_break_says():
    breaks = {edge + more for edge in spill_batches(decoding("by_hand", 1, 90), SMALL_CORES) for more in (0, 1)}
    joules = [point.joules * point.batch for point in all_of("small cores")]
    slopes = [after - before for before, after in pairwise(joules)]
    assert len({b for b in range(2, LIMIT - 1) if slopes[b - 1] > 1.05 * slopes[b - 2] and b > 5} - breaks) > 5


def test_the_net_of_a_step_can_be_made_for_any_batch():
    nets = [decode_net(decoding("by_hand", batch, 5), ()) for batch in (1, 300)]
    assert list(nets[0].ops) == list(nets[1].ops)
