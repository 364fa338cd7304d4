"""Tests of kernels/spectral_attention/onnx_body.py, onnx_tiles.py and onnx_builder.py: one file gives the reference's numbers at every
length, in standard operators alone."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.cost_model.errors import InputError
from szilard.kernels.spectral_attention.onnx_body import OPSET, attention_nodes
from szilard.kernels.spectral_attention.onnx_builder import Builder
from szilard.kernels.spectral_attention.prepare import SparsePrepared, prepare, simulate
from szilard.kernels.spectral_attention.reference import spectral_attention

from .onnx_graphs import kinds, run
from .sparse_attention import operands, planted

HEADS, WIDTH, DEPTH = 3, 12, 7


@pytest.fixture(scope="module")
def prepared():
    queries, keys, _ = (x[0] for x in planted(0, 1, HEADS, 600, WIDTH, DEPTH))
    return replace(prepare(queries, keys, length=600, scale=0.3, tile=16), budget=4)


def model(prepared, depth=DEPTH, masked=False, opset=OPSET):
    (heads, _, width), shared = prepared.query_codebook.shape, len(prepared.key_codebook)
    shapes = {"q": ["B", heads, "N", width], "k": ["B", shared, "S", width], "v": ["B", shared, "S", depth]}
    inputs = [
        ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT)) for name, shape in shapes.items()
    ]
    if masked:
        inputs.append(ir.Value(name="mask", shape=ir.Shape(["B", "S"]), type=ir.TensorType(ir.DataType.BOOL)))
    body = attention_nodes(*inputs[:3], prepared, "sparse", *inputs[3:])
    body.output.shape = ir.Shape(["B", heads, "N", depth])
    graph = ir.Graph(
        inputs, [body.output], nodes=body.nodes, initializers=body.initializers, opset_imports={"": opset}, name="g"
    )
    return ir.Model(graph, ir_version=8 if opset < 23 else 11)


LENGTHS = [(2, 333, 333), (1, 1, 1), (3, 17, 5), (1, 5, 257), (1, 16, 64), (2, 129, 160), (1, 601, 48)]


@pytest.mark.parametrize(("batch", "queries", "keys"), LENGTHS)
def test_equals_the_reference_at_every_length(prepared, batch, queries, keys):
    q, _, _ = planted(queries, batch, HEADS, queries, WIDTH, DEPTH)
    _, k, v = planted(keys + 1, batch, HEADS, keys, WIDTH, DEPTH)
    (found,) = run(model(prepared), {"q": q, "k": k, "v": v})
    wanted = simulate(prepared, *map(torch.from_numpy, (q, k, v)))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=2e-5)
    dense = torch.nn.functional.scaled_dot_product_attention(*map(torch.from_numpy, (q, k, v)), scale=0.3)
    assert np.allclose(found, dense, rtol=1e-4, atol=2e-5) == (keys <= 16 * prepared.budget)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31), heads=st.sampled_from([(1, 1), (3, 3), (4, 2), (6, 2)]), batch=st.integers(1, 2),
    queries=st.integers(1, 90), keys=st.integers(1, 90), tile=st.sampled_from([1, 3, 8]), key_tile=st.sampled_from([None, 4]),
    most=st.integers(0, 5), alike=st.booleans(), masked=st.booleans(), leaves=st.sampled_from([4, 8]),
    opset=st.sampled_from([OPSET, 18, 23]),
)  # fmt: skip
def test_shared_heads_masks_and_budgets_a_head(
    seed, heads, batch, queries, keys, tile, key_tile, most, alike, masked, leaves, opset
):
    random = np.random.default_rng(seed)
    budget = most if alike else tuple(int(each) for each in random.integers(0, most + 1, heads[0]))
    q, k, v, *codebooks = operands(seed, batch, heads, queries, keys, width=6, depth=5, leaves=leaves)
    made = SparsePrepared(*(each.numpy() for each in codebooks), tile, budget, 0.3, key_tile)
    feeds = {"q": q.numpy(), "k": k.numpy(), "v": v.numpy()}
    if masked:
        feeds["mask"] = random.random((batch, keys)) < random.random()
    (found,) = run(model(made, depth=5, masked=masked, opset=opset), feeds)
    mask = torch.from_numpy(feeds["mask"]) if masked else None
    options = {"scale": 0.3, "tile": tile, "key_tile": key_tile, "budget": budget, "key_mask": mask}
    wanted = spectral_attention(q, k, v, *codebooks, **options)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=5e-5)


def test_standard_operators_without_a_branch(prepared):
    made = model(prepared)
    everything = list(made.graph.all_nodes())
    assert {node.domain for node in everything} == {""}
    assert not {"If", "Loop", "GatherElements"} & {node.op_type for node in everything}
    assert kinds(made).count("Scan") == 1
    assert len({node.name for node in everything}) == len(everything)
    assert all(node.name.startswith("sparse.") for node in everything)


def test_heads_of_equal_budgets_share_a_scan(prepared):
    assert kinds(model(replace(prepared, budget=(4, 2, 4)))).count("Scan") == 2


def test_queries_and_keys_may_have_codebooks_of_other_sizes(prepared):
    other = replace(prepared, query_codebook=prepared.query_codebook[:, ::4])
    q, k, v = planted(5, 1, HEADS, 150, WIDTH, DEPTH)
    (found,) = run(model(other), {"q": q, "k": k, "v": v})
    np.testing.assert_allclose(found, simulate(other, *map(torch.from_numpy, (q, k, v))), rtol=1e-4, atol=2e-5)


def test_what_does_not_fit_is_refused(prepared):
    for wrong in (
        replace(prepared, budget=-1),
        replace(prepared, budget=(1, 2)),
        replace(prepared, key_codebook=prepared.key_codebook[:2]),
    ):
        with pytest.raises(InputError, match="heads that divide them and budgets"):
            model(wrong)


def test_the_builder_makes_equal_nodes_and_constants_once():
    build = Builder("b")
    x = ir.Value(name="x")
    assert build("Neg", x) is build("Neg", x)
    assert build.sizes(1, 2) is build.join(1, 2)
    assert build.unsqueeze(x, 1) is not build.unsqueeze(x, 2)
    assert [node.op_type for node in build.nodes] == ["Neg", "Unsqueeze", "Unsqueeze"]
