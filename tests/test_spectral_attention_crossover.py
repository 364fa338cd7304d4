"""Tests of kernels/spectral_attention/crossover.py: the refusal's sentence, and that its counts are those of the real operator."""

from dataclasses import replace

import numpy as np
import pytest

from szilard.cost_model.counts import count
from szilard.cost_model.device import device_names, load_device
from szilard.cost_model.view_fx import view_fx
from szilard.kernels.spectral_attention.crossover import (
    LONGEST,
    costs,
    crossover,
    longest_length,
    meant_for,
    refusal,
    sparse_net,
    stand_in,
)
from szilard.kernels.spectral_attention.tiling import budget_for, leaves_for

from .fx_graphs import cleaned, traced_family
from .nets import NetBuilder
from .sparse_attention import site

CPU = load_device("cpu")


@pytest.mark.parametrize("name", device_names())
def test_the_crossover_is_where_the_prices_meet(name):
    device = load_device(name)
    found = crossover(site(128), device)
    if found is None:
        assert all(dense <= sparse for dense, sparse in (costs(site(128), n, device) for n in (512, 4096, LONGEST)))
        return
    dense, sparse = costs(site(128), found, device)
    assert sparse < dense
    dense, sparse = costs(site(128), found - 1, device)
    assert sparse >= dense
    assert found > 512


def test_it_moves_with_prices_and_with_the_work():
    base = crossover(site(128), CPU)
    assert base is not None
    dear = CPU.with_values({"launch": 100 * CPU.value("launch")})
    assert crossover(site(128), dear) > base
    assert crossover(site(128), CPU, density=0.5) is None or crossover(site(128), CPU, density=0.5) > base
    assert crossover(site(128, heads=1, kv_heads=1), dear) > crossover(site(128), dear)
    assert crossover(site(128, head_dim=64), CPU) != base


def test_the_sentence_names_the_length_and_the_crossover():
    found = crossover(site(128), CPU)
    said = refusal(site(128), 512, CPU)
    assert said.startswith(
        "Spectral sparse attention is refused: 128 tokens (the model takes at most 512) lie below the crossover of about "
    )
    assert said.endswith(" tokens, where it and dense attention cost the same modelled joules on cpu.")
    about = int(said.split("about ")[1].split()[0].replace(",", ""))
    assert abs(about - found) <= 0.05 * found
    assert "(the model" not in refusal(site(128), None, CPU)
    assert "(the model" not in refusal(site(512), 512, CPU)
    assert refusal(site(found), None, CPU) == ""
    assert "below the crossover" in refusal(site(found - 1), None, CPU)


def test_no_crossover_is_said_too():
    free = CPU.with_values({"launch": 1e6})
    assert crossover(site(128), free) is None
    assert "128 tokens lie below any crossover: up to 1,048,576 tokens" in refusal(site(128), None, free)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mask": "mask"}, "has a mask"),
        ({"sink": "sink"}, "has an attention sink"),
        ({"form": "packed"}, "is one operator with operands in a layout of its own"),
        ({"softcap": 30.0}, "has a softcap"),
        ({"query_length": 7}, "has 7 queries for 8,192 keys"),
        ({"dtype": "float16"}, "is float16"),
    ],
)
def test_above_the_crossover_it_says_what_it_cannot_do(changes, sentence):
    assert refusal(site(8192), None, CPU) == ""
    said = refusal(site(8192, **changes), None, CPU)
    assert sentence in said
    assert said.startswith("Spectral sparse attention is refused: attention softmax ")
    assert said.endswith(".")
    assert "below the crossover" in refusal(replace(site(8192, **changes), key_length=100, query_length=100), None, CPU)


def test_the_exact_tiles_are_counted_as_often_as_they_are_taken():
    """12 heads, 16 tiles of 64 queries, each with 5 exact tiles and the centroids of a sixth: two products of every pair."""
    net = sparse_net(site(1024), 1024)
    (scan,) = (op for op in net.ops.values() if op.kind == "scan")
    pairs = 12 * 16 * 64 * (5 * 64 + 64)
    found = count(scan, net)
    assert found.known
    assert found.flops["float32.tensor"] == pytest.approx(4 * 32 * pairs, rel=0.3)
    assert found.flops["float32.tensor"] > 4 * 32 * pairs


def test_between_two_powers_of_two_joules_lie_between_theirs_and_beyond_the_last_they_go_on():
    found = [costs(site(length), length, CPU)[1] for length in (1024, 1100, 2000, 2048, 4096, 8192)]
    assert found == sorted(found)
    assert found[5] / found[4] == pytest.approx(found[4] / found[3])


def test_causal_attention_is_judged_at_its_own_length_and_by_a_mask_that_says_no_more():
    small = {"heads": 4, "kv_heads": 2}
    assert "up to 400 tokens it reads every key exactly, and attention softmax has 128" in refusal(
        site(128, causal=True), 512, CPU
    )
    for causal in ({"causal": True}, {"mask": "mask", "mask_is_causal": True}):
        assert refusal(site(4096, **causal, **small), None, CPU) == ""
    dear = CPU.with_values({"launch": 1.0})
    assert "at 4,096 tokens its modelled joules on cpu are" in refusal(site(4096, causal=True, **small), None, dear)
    assert "has a mask" in refusal(site(4096, causal=True, mask="mask", **small), None, CPU)


def test_a_mask_that_says_no_more_costs_what_the_flag_does():
    flagged, masked = (
        costs(site(1024, heads=2, kv_heads=2, **each), 1024, CPU)
        for each in ({"causal": True}, {"mask": "mask", "mask_is_causal": True})
    )
    assert flagged == masked
    assert flagged[1] != costs(site(1024, heads=2, kv_heads=2), 1024, CPU)[1]


def test_a_causal_operator_computes_half_of_the_dense_one_and_shares_its_keys():
    whole, half = (costs(site(2048, causal=causal, heads=4, kv_heads=4), 2048, CPU)[0] for causal in (False, True))
    assert 0.4 * whole < half < 0.7 * whole
    assert costs(site(2048, heads=4, kv_heads=1), 2048, CPU)[0] < whole


@pytest.mark.parametrize("name", device_names())
def test_dense_attention_reads_its_keys_again_where_a_core_does_not_hold_them(name):
    device = load_device(name)
    vast = device.with_values({"capacity.core": 1e12, "capacity.cache": 1e12})
    bare = vast.with_values({"capacity.cache": device.value("capacity.cache")})
    assert costs(site(32768), 32768, device)[0] > costs(site(32768), 32768, bare)[0]
    assert costs(site(64), 64, device)[0] == costs(site(64), 64, bare)[0]


def test_budgets_and_leaves():
    assert [budget_for(n, 64, 0.12) for n in (1, 640, 4096, 65536)] == [5, 5, 8, 123]
    assert [leaves_for(n, 64) for n in (1, 64, 65, 4096, 4097)] == [1, 1, 2, 64, 128]


@pytest.mark.long
@pytest.mark.parametrize(("family", "longest"), [("bert", 512), ("gpt2", 64), ("llama", None)])
def test_the_longest_length_of_small_transformers(family, longest):
    program = traced_family(family)
    net = view_fx(cleaned(program), {name: array.shape for name, array in program.sample.items()})
    assert longest_length(net) == longest


def test_tables_that_differ_are_not_believed():
    def looked_up(*lengths):
        build = NetBuilder()
        ids = build.input("ids", 1, 5, dtype="int64")
        last = build.op("embedding", build.weight("words", 99, 4), ids, shape=(1, 5, 4), dtype="float32")
        for number, length in enumerate(lengths):
            places = build.constant(f"places{number}", np.arange(5))
            found = build.op("embedding", build.weight(f"table{number}", length, 4), places, shape=(5, 4), dtype="float32")
            last = build.op("add", last, found)
        return longest_length(build.net(last))

    assert [looked_up(), looked_up(40), looked_up(40, 40), looked_up(40, 50)] == [None, 40, 40, None]


@pytest.mark.parametrize("causal", [False, True])
def test_modules_are_dense_below_the_length_from_which_sparse_pays(causal):
    at_4096 = site(4096, causal=causal)
    made = stand_in(at_4096, 4096)
    found = meant_for({"a": made, "other": 3}, {"a": at_4096}, CPU)
    at = found["a"].dense_below
    assert found["other"] == 3
    assert 1 < at < 4096
    for length, pays in ((at, True), (at - 1, False)):
        dense, sparse = costs(at_4096, length, CPU)
        assert (sparse < dense) is pays


def test_the_gpu_kernels_run_heads_that_they_hold():
    for width, held in ((128, True), (129, False)):
        wide = replace(site(4096), head_dim=width)
        found = meant_for({"a": stand_in(wide, 4096)}, {"a": wide}, load_device("h200"))
        assert found["a"].on_cuda is held
