"""Tests of kernels/spectral_attention/causal_onnx.py, causal_onnx_step.py and causal_onnx_tables.py: one file gives the reference's numbers
at every length, in standard operators alone."""

import math

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from szilard.cost_model.errors import InputError
from szilard.kernels.spectral_attention.causal import LAYOUT, Layout
from szilard.kernels.spectral_attention.causal_onnx import causal_nodes
from szilard.kernels.spectral_attention.causal_prepare import CausalPrepared, simulate
from szilard.kernels.spectral_attention.onnx_body import OPSET

from .causal_attention import SMALL, dense, operands, padded
from .onnx_graphs import run

WIDTH, DEPTH = 12, 7
PREPARED = CausalPrepared((4, None, 2, 9, 4, 0), 0.4, SMALL)


def model(prepared, kv_heads=2, opset=OPSET, masked=False):
    shapes = {
        "q": ["B", len(prepared.budgets), "N", WIDTH],
        "k": ["B", kv_heads, "N", WIDTH],
        "v": ["B", kv_heads, "N", DEPTH],
    }
    inputs = [
        ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT)) for name, shape in shapes.items()
    ]
    mask = ir.Value(name="m", shape=ir.Shape(["M", "N"]), type=ir.TensorType(ir.DataType.BOOL)) if masked else None
    body = causal_nodes(*inputs, prepared, kv_heads, "causal", opset, mask)
    inputs += [mask] if mask is not None else []
    body.output.shape = ir.Shape(["B", len(prepared.budgets), "N", DEPTH])
    graph = ir.Graph(
        inputs, [body.output], nodes=body.nodes, initializers=body.initializers, opset_imports={"": opset}, name="g"
    )
    return ir.Model(graph, ir_version=8 if opset < 23 else 11)


def result(prepared, given, kv_heads=2, opset=OPSET):
    feeds = dict(zip("qkv", (x.numpy() for x in given), strict=True))
    return torch.from_numpy(run(model(prepared, kv_heads, opset), feeds)[0])


@pytest.mark.parametrize("length", [1, 7, 8, 9, 16, 17, 25, 40, 41, 64, 65, 100, 133, 300])
def test_equals_the_reference_at_every_length(length):
    given = operands(length, 2, (6, 2), length, WIDTH, DEPTH)
    torch.testing.assert_close(result(PREPARED, given), simulate(PREPARED, given), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("length", [9, 41, 133, 300])
def test_padding_is_moved_out_of_the_way(length):
    given, mask = operands(length, 3, (6, 2), length, WIDTH, DEPTH), padded(length, 3, length)
    built, feeds = model(PREPARED, masked=True), dict(zip("qkv", (x.numpy() for x in given), strict=True))
    found = torch.from_numpy(run(built, {**feeds, "m": mask.numpy()})[0])
    assert found.isfinite().all()
    wanted = simulate(PREPARED, given, mask)
    counts = mask[:, None, :, None].expand_as(found)
    torch.testing.assert_close(found[counts], wanted[counts], rtol=1e-4, atol=2e-5)
    same_for_all = torch.from_numpy(run(built, {**feeds, "m": mask[:1].numpy()})[0])
    torch.testing.assert_close(same_for_all[:1], found[:1])
    torch.testing.assert_close(same_for_all[1:], simulate(PREPARED, given, mask[:1].expand(3, -1))[1:], rtol=1e-4, atol=2e-5)


def test_one_session_serves_short_and_long():
    """The tables of one length leave nothing behind for the next; short ones are dense attention."""
    session = onnxruntime.InferenceSession(ir.to_proto(model(PREPARED)).SerializeToString(), providers=["CPUExecutionProvider"])
    for length in (133, 5, 300, 16, 133):
        given = operands(length, 2, (6, 2), length, WIDTH, DEPTH)
        (found,) = session.run(None, dict(zip("qkv", (x.numpy() for x in given), strict=True)))
        wanted = simulate(PREPARED, given) if length > 8 else dense(*given, PREPARED.scale)
        torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("layout", [LAYOUT, Layout(8, 8, 8, 8), Layout(8, 4, 32, 16)])
def test_equals_the_reference_in_every_layout(layout):
    prepared = CausalPrepared((3, 12), 0.4, layout)
    given = operands(1, 1, (2, 1), 701, WIDTH, DEPTH)
    torch.testing.assert_close(result(prepared, given, 1), simulate(prepared, given), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("opset", [18, 23])
def test_later_operator_sets(opset):
    given = operands(2, 1, (6, 2), 90, WIDTH, DEPTH)
    torch.testing.assert_close(result(PREPARED, given, opset=opset), simulate(PREPARED, given), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("budgets", [(None,) * 4, (1000,) * 4])
def test_all_tiles_are_dense_attention(budgets):
    given = operands(0, 1, (4, 2), 150, WIDTH, DEPTH)
    found = result(CausalPrepared(budgets, 0.4, SMALL), given)
    torch.testing.assert_close(found, dense(*given, 0.4), rtol=1e-5, atol=1e-5)


def test_no_output_depends_on_a_later_key_or_value():
    query, key, value = operands(0, 1, (6, 2), 100, WIDTH, DEPTH)
    before = result(PREPARED, (query, key, value))
    key[:, :, 78:] = 50 * torch.randn(key[:, :, 78:].shape)
    value[:, :, 78:] = 1e6
    torch.testing.assert_close(result(PREPARED, (query, key, value))[:, :, :78], before[:, :, :78])


def test_operators_are_standard_and_none_branches():
    nodes = list(model(PREPARED).graph.all_nodes())
    assert {node.domain for node in nodes} == {""}
    assert not {"If", "Loop"} & {node.op_type for node in nodes}


def test_what_does_not_fit_is_refused():
    values = [ir.Value(name=name) for name in "qkv"]
    for prepared, heads in (
        (PREPARED, 4),
        (CausalPrepared((2, -1), 1.0), 1),
        (CausalPrepared((2,), 1.0, Layout(8, 2, 16, 0)), 1),
    ):
        with pytest.raises(InputError, match="cannot read"):
            causal_nodes(*values, prepared, heads, "causal")


def test_names_start_with_the_given_name():
    body = causal_nodes(*(ir.Value(name=name) for name in "qkv"), PREPARED, 2, "here")
    assert all(value.name.startswith("here.") for value in body.initializers)
    assert all(node.name.startswith("here.") for node in body.nodes)
    assert math.prod(np.shape(body.initializers)) > 0
