"""Tests of kernels/spectral_attention/onnx_body.py: one file gives the reference's numbers at every length, in standard operators alone."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch

from szilard.cost_model.errors import InputError
from szilard.kernels.spectral_attention.onnx_body import OPSET, attention_nodes
from szilard.kernels.spectral_attention.prepare import prepare, simulate

from .onnx_graphs import kinds, run
from .sparse_attention import planted

HEADS, WIDTH, DEPTH = 3, 12, 7


@pytest.fixture(scope="module")
def prepared():
    queries, keys, _ = (x[0] for x in planted(0, 1, HEADS, 600, WIDTH, DEPTH))
    return replace(prepare(queries, keys, length=600, scale=0.3, tile=16), budget=4)


def model(prepared):
    shapes = {"q": ["B", HEADS, "N", WIDTH], "k": ["B", HEADS, "S", WIDTH], "v": ["B", HEADS, "S", DEPTH]}
    inputs = [
        ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT)) for name, shape in shapes.items()
    ]
    body = attention_nodes(*inputs, prepared, "sparse")
    body.output.shape = ir.Shape(["B", HEADS, "N", DEPTH])
    graph = ir.Graph(
        inputs, [body.output], nodes=body.nodes, initializers=body.initializers, opset_imports={"": OPSET}, name="g"
    )
    return ir.Model(graph, ir_version=8)


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


def test_standard_operators_without_a_branch(prepared):
    made = model(prepared)
    assert {node.domain for node in made.graph} == {""}
    assert not {"If", "Loop", "Scan", "GatherElements"} & set(kinds(made))
    assert len({node.name for node in made.graph}) == len(made.graph)
    assert all(node.name.startswith("sparse.") for node in made.graph)


def test_queries_and_keys_may_have_codebooks_of_other_sizes(prepared):
    other = replace(prepared, query_codebook=prepared.query_codebook[:, ::4])
    q, k, v = planted(5, 1, HEADS, 150, WIDTH, DEPTH)
    (found,) = run(model(other), {"q": q, "k": k, "v": v})
    np.testing.assert_allclose(found, simulate(other, *map(torch.from_numpy, (q, k, v))), rtol=1e-4, atol=2e-5)


def test_a_budget_of_none_is_refused(prepared):
    with pytest.raises(InputError, match="at least one tile, not 0"):
        model(replace(prepared, budget=0))
