"""The ONNX export of a traced program has its names, its free axes and its numbers. Covers translate_attention.py."""

import contextlib
import io
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from szilard.cost_model.errors import InputError
from szilard.cost_model.view_onnx import view_onnx
from szilard.rewriter import export_onnx as module_under_test
from szilard.rewriter.export_onnx import export_onnx
from szilard.rewriter.trace_torch import trace_module

from .onnx_graphs import run
from .test_trace_torch import Encoder, sample

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def exported():
    torch.manual_seed(0)
    program = trace_module(Encoder(), sample(1, 5))
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        result = export_onnx(program)
    return program, result, stdout.getvalue() + stderr.getvalue()


def test_names_axes_and_sample_are_kept_and_nothing_is_printed(exported):
    program, result, printed = exported
    assert (result.inputs, result.outputs, result.runtime) == (program.inputs, program.outputs, "onnxruntime")
    assert result.dynamic == program.dynamic
    assert printed == ""
    graph = result.graph.graph
    assert [value.name for value in graph.inputs] == list(program.inputs)
    assert [value.name for value in graph.outputs] == list(program.outputs)
    assert str(graph.outputs[0].shape) == "[batch,sequence,8]"
    names = [node.name for node in graph.all_nodes()]
    assert len(set(names)) == len(names)
    onnx.checker.check_model(ir.to_proto(result.graph), full_check=True)


@pytest.mark.parametrize(("batch", "length", "hidden"), [(1, 5, 0), (3, 9, 4), (2, 1, 0), (2, 4, 4)])
def test_numbers_are_those_of_torch_even_where_a_row_sees_nothing(exported, batch, length, hidden):
    program, result, _ = exported
    given = sample(batch, length)
    given["mask"][0, length - hidden :] = 0
    expected = program.graph(*given.values())
    found = run(result.graph, {name: tensor.numpy() for name, tensor in given.items()})
    for want, got in zip(expected, found, strict=True):
        np.testing.assert_allclose(got, want.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_module_paths_travel_with_the_nodes(exported):
    net = view_onnx(exported[1].graph, {"ids": (2, 5), "mask": (2, 5)})
    assert {op.origin for op in net.ops.values() if op.kind in ("matmul", "layer_norm")} >= {"query", "out", "norm"}


class Attentions(nn.Module):
    """One attention of each kind, so that one export serves them all."""

    def forward(self, q, k, v, additive, boolean):
        few, single = k[:, :2], k[:, :1]
        return {
            "plain": F.scaled_dot_product_attention(q, k, v),
            "causal": F.scaled_dot_product_attention(q, k, v, is_causal=True),
            "additive": F.scaled_dot_product_attention(q, k, v, additive, scale=0.3),
            "boolean": F.scaled_dot_product_attention(q, k, v, boolean, scale=1.0),
            "grouped": F.scaled_dot_product_attention(q, few, v[:, :2], enable_gqa=True),
            "shared": F.scaled_dot_product_attention(q, single, v[:, :1], enable_gqa=True, is_causal=True),
        }


def test_attention_in_plain_operators():
    torch.manual_seed(1)
    q, k, v = torch.randn(2, 4, 6, 8), torch.randn(2, 4, 6, 8), torch.randn(2, 4, 6, 5)
    given = (q, k, v, torch.randn(6, 6), torch.rand(2, 1, 6, 6) > 0.6)
    batch = {0: "batch"}
    program = trace_module(Attentions(), given, {"q": batch, "k": batch, "v": batch, "boolean": batch})
    result = export_onnx(program)
    assert result.dynamic == program.dynamic
    kinds = [node.op_type for node in result.graph.graph]
    assert kinds.count("Softmax") == 6
    assert kinds.count("MatMul") == 9, "three of the six share their scores"
    assert "Attention" not in kinds
    found = run(result.graph, {name: tensor.numpy() for name, tensor in zip(program.inputs, given, strict=True)})
    assert program.outputs[2:4] == ("additive_output", "boolean_output"), "an output and an input of one name"
    for name, want, got in zip(program.outputs, program.graph(*given), found, strict=True):
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)


class Awkward(nn.Module):
    """Gives an input back, the same result twice, and has an input that is called like one of the exporter's values."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3))

    def forward(self, val_0, input):
        y = val_0 * self.weight + input
        return {"same": val_0, "val_1": y, "again": y, "linear": y.relu()}


def test_outputs_that_share_a_value_keep_their_names():
    given = (torch.randn(2, 3), torch.randn(2, 3))
    program = trace_module(Awkward(), given)
    result = export_onnx(program)
    found = run(result.graph, {"val_0": given[0].numpy(), "input": given[1].numpy()})
    assert [value.name for value in result.graph.graph.outputs] == ["same", "val_1", "again", "linear"]
    for want, got in zip(program.graph(*given), found, strict=True):
        np.testing.assert_allclose(got, want.detach().numpy(), rtol=1e-6)


def test_an_operator_without_translation_is_named():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.ops.aten.igamma.default(x.abs(), x.abs() + 1)

    with pytest.raises(InputError, match=r"cannot be exported to ONNX.*igamma") as caught:
        export_onnx(trace_module(Odd(), (torch.rand(2, 3),)))
    assert "\n" not in str(caught.value)


def test_other_numbers_are_not_let_through(exported, monkeypatch):
    program, _, _ = exported
    runner = module_under_test.torch_runner

    def shifted(*arguments):
        return lambda feeds: {name: array + 0.1 for name, array in runner(*arguments)(feeds).items()}

    monkeypatch.setattr(module_under_test, "torch_runner", shifted)
    with pytest.raises(InputError, match="'hidden' differs"):
        export_onnx(replace(program, dynamic={}))
