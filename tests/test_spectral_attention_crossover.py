"""Tests of kernels/spectral_attention/crossover.py: the refusal's sentence, and that its counts are those of the real operator."""

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from szilard.cost_model.counts import count
from szilard.cost_model.counts_traffic import SILENT
from szilard.cost_model.device import device_names, load_device
from szilard.cost_model.price import price_net
from szilard.cost_model.view_fx import view_fx
from szilard.cost_model.view_onnx import view_onnx
from szilard.kernels.spectral_attention.crossover import (
    LONGEST,
    budget_for,
    costs,
    crossover,
    leaves_for,
    longest_length,
    refusal,
    sparse_stages,
)
from szilard.kernels.spectral_attention.onnx_body import OPSET, attention_nodes
from szilard.kernels.spectral_attention.prepare import SparsePrepared

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
    assert crossover(site(128, head_dim=64), CPU) > base


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
    free = CPU.with_values({"byte.memory": 1e-6})
    assert crossover(site(128), free) is None
    assert "128 tokens lie below any crossover: up to 1,048,576 tokens" in refusal(site(128), None, free)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"causal": True}, "is causal"),
        ({"mask": "mask"}, "has a mask"),
        ({"kv_heads": 4}, "shares 4 key heads among 12 heads"),
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


@pytest.mark.parametrize("length", [128, 1000, 2500])
def test_the_stages_are_those_of_the_onnx_body(length):
    """Joules at the roofline within a tenth and launches within a fifth of those of the graph that really runs."""
    leaves, heads, width = leaves_for(length, 64), 12, 32
    books = np.random.default_rng(0).standard_normal((2, heads, leaves, width)).astype(np.float32)
    shape = (1, heads, length, width)
    inputs = [ir.Value(name=n, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT)) for n in "qkv"]
    body = attention_nodes(*inputs, SparsePrepared(books[0], books[1], 64, budget_for(length, 64, 0.12), 0.2), "sparse")
    graph = ir.Graph(
        inputs, [body.output], nodes=body.nodes, initializers=body.initializers, opset_imports={"": OPSET}, name="g"
    )
    net = view_onnx(ir.Model(graph, ir_version=8), dict.fromkeys("qkv", shape))
    real = price_net(net, CPU).total
    bare = replace(CPU, kind="cuda")
    assert costs(site(length), length, bare)[1] == pytest.approx(real.joules, rel=0.15)
    products = Counter(nest for _, counts in sparse_stages(site(length), length) for nest in counts.nests)
    assert products == Counter(nest for op in net.ops.values() for nest in count(op, net).nests)
    launches = sum(counts.launches for _, counts in sparse_stages(site(length), length))
    assert launches == pytest.approx(len(net.ops), rel=0.2)
    assert sum(op.kind not in SILENT for op in net.ops.values()) <= launches
    for kind in ("topk", "argmax", "softmax", "pad"):
        modelled = sum(found == kind for found, _ in sparse_stages(site(length), length))
        assert modelled == sum(op.kind == kind for op in net.ops.values())


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
