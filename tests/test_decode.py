"""Decode nets against a real model with a real cache: its flops as torch counts them, its cache as torch holds it."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.cost_model.counts import count
from szilard.cost_model.decode import Cache, cache_bytes, decode_net, find_caches, mixing_op, position_rows
from szilard.cost_model.device import load_device
from szilard.cost_model.price import price_net
from szilard.cost_model.sites import Miss
from szilard.cost_model.view_fx import view_fx
from szilard.passes.find_attention import find_attention

from . import tiny_decoder
from .nets import NetBuilder

H100 = load_device("h100")


@cache
def found(spelling: str, new: int = 1) -> tuple[Cache, ...]:
    """Caches of a spelling that reads 34 positions."""
    graph = tiny_decoder.traced(spelling).graph
    short, long = (view_fx(graph, {"input_ids": (2, length)}) for length in (new, 23))
    sites, _ = find_attention(long)
    caches = find_caches(short, long, sites, {site.id: 34 for site in sites})
    assert not isinstance(caches, Miss)
    return caches


def at(caches, positions: int):
    return tuple(replace(cache, positions=positions) for cache in caches)


def plain(spelling: str, batch: int, new: int = 1):
    return view_fx(tiny_decoder.traced(spelling).graph, {"input_ids": (batch, new)})


def decoding(spelling: str, batch: int, context: int, new: int = 1):
    return decode_net(plain(spelling, batch, new), at(found(spelling, new), context + new))


def product_flops(net) -> float:
    counts = (count(op, net) for op in net.ops.values())
    return sum(flops for each in counts for dtype, flops in each.flops.items() if dtype.endswith(".tensor"))


@pytest.mark.parametrize("spelling", ["sdpa_mask", "by_hand"])
@pytest.mark.parametrize(("batch", "context", "new"), [(5, 33, 1), (1, 6, 1), (3, 20, 4)])
def test_a_step_has_the_flops_that_torch_counts_in_a_real_one(spelling, batch, context, new):
    flops, _ = tiny_decoder.counted_step(batch, context, new)
    assert product_flops(decoding(spelling, batch, context, new)) == flops


@pytest.mark.long
def test_an_operator_that_is_causal_sees_all_of_the_cache():
    flops, _ = tiny_decoder.counted_step(5, 33)
    assert product_flops(decoding("sdpa_causal", 5, 33)) == flops


@pytest.mark.parametrize("spelling", ["sdpa_mask", "by_hand"])
def test_the_cache_is_what_torch_holds_and_is_read_from_memory_once(spelling):
    """Grouped keys: two heads are kept and read, although the trace repeats them for six."""
    batch, context = 5, 33
    _, held = tiny_decoder.counted_step(batch, context)
    caches = at(found(spelling), context + 1)
    assert cache_bytes(caches) * batch == held
    assert {(each.heads, each.kv_heads, each.head_dim) for each in caches} == {(6, 2, 10)}
    before = price_net(plain(spelling, batch), H100).total.bytes_by_level
    after = price_net(decoding(spelling, batch, context), H100).total.bytes_by_level
    assert after["memory"] - before["memory"] == held


@pytest.mark.parametrize("spelling", ["sdpa_mask", "by_hand"])
def test_weights_are_read_once_for_the_whole_batch(spelling):
    _, one = tiny_decoder.counted_step(1, 33)
    memory = {b: price_net(decoding(spelling, b, 33), H100).total.bytes_by_level["memory"] for b in (1, 9)}
    rows = 4 * tiny_decoder.WIDTH  # what a sequence reads of the embedding table
    assert memory[9] - memory[1] == pytest.approx(8 * (one + rows), rel=0.01)


def test_ops_and_their_names_stay():
    net = decoding("by_hand", 2, 33)
    assert list(net.ops) == list(plain("by_hand", 2).ops)
    assert {cache.key for cache in found("by_hand")} <= set(net.outputs)
    assert all(np.asarray(net.array(name)).shape == net.shape(name) for name in net.values if ":cache" in name)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 500), st.integers(1, 500))
def test_more_context_never_costs_less_and_work_is_a_straight_line_in_it(batch, context, more):
    work = [price_net(decoding("by_hand", batch, c), H100).total for c in (context, context + more, context + 2 * more)]
    for key in ("flops", "bytes"):
        low, middle, high = (getattr(cost, key) for cost in work)
        assert high - middle == pytest.approx(middle - low)
        assert high > middle > low
    assert work[0].joules < work[1].joules < work[2].joules
    assert work[0].seconds <= work[1].seconds <= work[2].seconds


def test_shared_keys_and_values_are_one_cache():
    first, second = found("by_hand")
    shared = replace(second, key=first.key, value=first.value)
    assert cache_bytes([first, shared]) == first.bytes < cache_bytes([first, second])


def attention_net(length: int, keys: int = 0, packed: bool = False):
    """x -> one attention of two heads; `keys` is the length of a memory of its own."""
    build = NetBuilder()
    x, memory = build.input("x", 2, length, 8), build.input("memory", 2, keys or length, 8)
    q = build.transpose(build.reshape(x, 2, length, 2, 4), 0, 2, 1, 3)
    k = build.transpose(build.reshape(memory if keys else x, 2, keys or length, 2, 4), 0, 2, 1, 3)
    y = build.op(
        "attention", q, k, k if packed else build.op("relu", k), shape=(2, 2, length, 4), is_causal=True, layout="BHND"
    )
    return build.net(y)


def test_a_memory_of_its_own_is_refused():
    short, long = attention_net(1, keys=9), attention_net(5, keys=9)
    sites, _ = find_attention(long)
    miss = find_caches(short, long, sites, {sites[0].id: 7})
    assert isinstance(miss, Miss)
    assert "has 5 queries over keys [2, 2, 9, 4]: it reads a memory or a cache of its own." in miss.reason


@pytest.mark.parametrize(
    ("indices", "rows"),
    [
        ("range", 16),
        ("slice of a table", 16),
        ("sum of ones", 16),
        ("zeros", None),
        ("types at positions", None),
        ("input", None),
    ],
)
def test_a_table_ends_the_context_where_its_rows_are_positions(indices, rows):
    """Token types take one row everywhere, however many rows there are."""

    def net(length: int):
        build = NetBuilder()
        ids = build.input("ids", 1, length, dtype="int64")
        every = {"shape": (1, length), "dtype": "int64"}
        if indices == "input":
            chosen = ids
        elif indices == "range":
            chosen = build.op("arange", **every)
        elif indices == "sum of ones":
            chosen = build.op("cumsum", build.op("constant_of_shape", **every), **every)
        else:
            places = build.op("slice", build.constant("places", np.arange(16)[None]), **every)
            chosen = places
            if indices != "slice of a table":
                chosen = build.op("expand", build.constant("types", np.zeros((1, 16), np.int64)), **every)
            if indices == "types at positions":
                chosen = build.op("gather_elements", chosen, places, **every)
        return build.net(build.op("embedding", build.weight("table", 16, 4), chosen, shape=(1, length, 4)))

    assert position_rows(net(1), net(5)) == rows


def test_one_value_as_keys_and_values_is_refused():
    short, long = attention_net(1, packed=True), attention_net(5, packed=True)
    sites, _ = find_attention(long)
    miss = find_caches(short, long, sites, {sites[0].id: 7})
    assert isinstance(miss, Miss)
    assert "in a layout which a decode phase cannot follow" in miss.reason


def test_an_op_that_mixes_positions_is_named():
    def net(length: int):
        build = NetBuilder()
        x = build.input("x", 1, 8, length)
        y = build.op("conv", x, build.weight("w", 8, 8, 3), shape=(1, 8, length), strides=[1])
        return build.net(
            build.op("conv", build.input("image", 1, 3, 4, 4), build.weight("v", 2, 3, 1, 1), shape=(1, 2, 4, 4)), y
        )

    op = mixing_op(net(1), net(5))
    assert op is not None
    assert op.inputs[0] == "x"
    assert mixing_op(net(5), net(5)) is None
