"""A Net says of a traced graph what torch computes. Covers attributes_aten.py and symbols_fx.py."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from szilard.cost_model.errors import InputError
from szilard.cost_model.view_fx import as_numpy, view_fx

aten = torch.ops.aten
A = torch.export.Dim.AUTO


class Calls(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *tensors):
        return self.function(*tensors)


def graph_of(module, *tensors, axes=()):
    if not isinstance(module, nn.Module):
        module = Calls(module)
    dynamic = tuple(dict.fromkeys(axes, A) for _ in tensors)
    exported = torch.export.export(
        module, tensors, strict=False, dynamic_shapes=(dynamic,) if isinstance(module, Calls) else dynamic
    )
    return exported.module(check_guards=False)


def last_op(function, *tensors):
    """The op that gives the result of `function`."""
    net = view_fx(graph_of(function, *tensors), {})
    return net, net.producer(net.outputs[0])


X = torch.randn(2, 3, 4, 5)


@pytest.mark.parametrize(
    ("function", "kind", "attributes"),
    [
        (lambda x: aten._softmax(x, 3, False), "softmax", {"axis": -1}),
        (lambda x: aten.sum.dim_IntList(x, [1, -1]), "reduce_sum", {"axes": [-3, -1], "keepdims": False}),
        (lambda x: aten.mean.dim(x, [2], True), "reduce_mean", {"axes": [-2], "keepdims": True}),
        (lambda x: aten.amax.default(x), "reduce_max", {"axes": [-4, -3, -2, -1], "keepdims": False}),
        (lambda x: aten.argmax.default(x, 1), "argmax", {"axes": [-3], "keepdims": False}),
        (lambda x: aten.permute.default(x, [0, -1, 1, 2]), "transpose", {"perm": [0, 3, 1, 2]}),
        (lambda x: aten.transpose.int(x, 1, -1), "transpose", {"perm": [0, 3, 2, 1]}),
        (lambda x: aten.unsqueeze.default(x, -1), "unsqueeze", {"axes": [4]}),
        (lambda x: aten.view.default(x, [6, -1]), "reshape", {"shape": (6, 20)}),
        (lambda x: aten.gelu.default(x, approximate="tanh"), "gelu", {"approximate": "tanh"}),
        (lambda x: aten.clamp.default(x, -1, None), "clip", {"min": -1.0}),
        (lambda x: aten.hardtanh.default(x), "clip", {"min": -1.0, "max": 1.0}),
        (lambda x: aten.relu6.default(x), "clip", {"min": 0.0, "max": 6.0}),
        (lambda x: aten.cat.default([x, x], -1), "concat", {"axis": 3}),
        (lambda x: aten._to_copy.default(x, dtype=torch.float16), "cast", {"to": "float16"}),
        (lambda x: aten._to_copy.default(x, dtype=torch.float32), "identity", {}),
        (lambda x: aten.cumsum.default(x, -1), "cumsum", {"axis": 3}),
        (lambda x: aten.add.Tensor(x, x, alpha=2), "add", {"alpha": 2}),
        (
            lambda x: aten.slice.Tensor(x, -1, 1, 4),
            "slice",
            {"axis": 3, "start": 1, "end": 4, "step": 1, "axes": [3], "starts": [1], "ends": [4], "steps": [1]},
        ),
        (
            lambda x: aten.avg_pool2d.default(x, [2, 2]),
            "pool_avg",
            {
                "kernel": [2, 2], "strides": [2, 2], "dilations": [1, 1], "pads": [0, 0, 0, 0],
                "ceil_mode": False, "count_include_pad": True,
            },
        ),
    ],
)  # fmt: skip
def test_attributes_are_canonical(function, kind, attributes):
    _, op = last_op(function, X)
    assert (op.kind, dict(op.attributes)) == (kind, attributes)


def test_matmuls_are_one_kind_with_the_bias_last():
    x, w, b = torch.randn(3, 4), torch.randn(5, 4), torch.randn(5)
    _, linear = last_op(lambda x, w, b: aten.linear.default(x, w, b), x, w, b)
    _, addmm = last_op(lambda x, w, b: aten.addmm.default(b, x, w.t(), beta=0.5, alpha=2), x, w, b)
    _, mm = last_op(lambda x, w: aten.mm.default(x, w.t()), x, w)
    assert linear.kind == addmm.kind == mm.kind == "matmul"
    assert linear.inputs == ("tensors_0", "tensors_1", "tensors_2")
    assert addmm.inputs == ("tensors_0", "t", "tensors_2")
    assert linear.attributes == {"transpose_a": False, "transpose_b": True, "alpha": 1.0, "beta": 1.0}
    assert addmm.attributes == {"transpose_a": False, "transpose_b": False, "alpha": 2.0, "beta": 0.5}


def test_attention_has_its_scale_worked_out():
    q, k = torch.randn(2, 4, 6, 8), torch.randn(2, 2, 7, 8)
    _, op = last_op(lambda q, k: F.scaled_dot_product_attention(q, k, k, enable_gqa=True), q, k)
    assert op.kind == "attention"
    assert op.inputs == ("tensors_0", "tensors_1", "tensors_1")
    assert op.attributes["scale"] == pytest.approx(1 / math.sqrt(8))
    assert (op.attributes["heads"], op.attributes["kv_heads"], op.attributes["gqa"]) == (4, 2, True)


def test_numbers_among_operands_are_constants():
    net, op = last_op(lambda x: x * 0.125, X)
    assert op.kind == "mul"
    assert net.scalar(op.inputs[1]) == 0.125
    assert op.inputs[1] == f"{op.id}:1"
    assert net.values[op.inputs[1]].dtype == "float32"
    net, op = last_op(lambda x: aten.rsub.Scalar(x, 1.0), X)
    assert (net.scalar(op.inputs[0]), op.inputs[1]) == (1.0, "tensors_0")
    net, op = last_op(lambda x: aten.select.int(x, 1, 2), X)
    assert (op.kind, op.attributes, net.scalar(op.inputs[1])) == ("gather", {"axis": 1}, 2.0)
    assert net.values[op.inputs[1]].dtype == "int64"


def test_conditions_and_fills():
    net, op = last_op(lambda x: aten.masked_fill.Scalar(x, x > 0, -1.0), X)
    assert op.kind == "where"
    assert net.producer(op.inputs[0]).kind == "gt"
    assert net.scalar(op.inputs[1]) == -1.0
    assert op.inputs[2] == "tensors_0"


def test_tensors_among_options_are_operands_too():
    _, op = last_op(lambda x, low: aten.clamp.Tensor(x, low), X, torch.zeros(5))
    assert op.inputs == ("tensors_0", "tensors_1")


def test_several_outputs_have_names_of_their_own():
    net, op = last_op(lambda x: aten.native_layer_norm.default(x, [5], None, None, 1e-6)[0], X)
    assert (op.kind, op.attributes["index"]) == ("identity", 0)
    norm = net.producer(op.inputs[0])
    assert norm.kind == "layer_norm"
    assert norm.attributes == {"axis": -1, "epsilon": 1e-6}
    assert norm.outputs == tuple(f"{norm.id}.{index}" for index in range(3))
    assert net.values[norm.outputs[1]].shape == (2, 3, 4, 1)
    net, op = last_op(lambda x: aten.split_with_sizes.default(x, [1, 3], -2)[1], X)
    assert net.producer(op.inputs[0]).attributes == {"axis": 2, "sizes": [1, 3]}


def test_convolutions_forward_and_transposed():
    conv = nn.Conv2d(4, 6, (3, 2), stride=2, padding=(1, 0), groups=2)
    back = nn.ConvTranspose1d(4, 3, 5, stride=3, padding=1)
    net = view_fx(graph_of(conv, torch.randn(2, 4, 9, 9)), {})
    (op,) = net.ops.values()
    assert (op.attributes["strides"], op.attributes["pads"], op.attributes["groups"]) == ([2, 2], [1, 0, 1, 0], 2)
    exported = torch.export.export(back, (torch.randn(2, 4, 7),), strict=False).run_decompositions().module(check_guards=False)
    (op,) = view_fx(exported, {}).ops.values()
    assert (op.attributes["transposed"], op.attributes["strides"], op.attributes["pads"]) == (True, [3], [1, 1])


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 5), nn.ReLU())
        self.register_buffer("table", torch.randn(1, 7, 5, dtype=torch.bfloat16))

    def forward(self, input, other):
        y = self.inner(input) + self.table[:, : input.shape[1]].float()
        return y.reshape(input.shape[0] * input.shape[1], 5), torch.cat([other, other], 1)


@pytest.fixture(scope="module")
def network():
    return Network(), graph_of(Network(), torch.randn(2, 3, 4), torch.randn(2, 3), axes=(0, 1))


def test_symbolic_sizes_become_the_given_ones(network):
    _, graph = network
    for batch, length in ((5, 4), (2, 7)):
        net = view_fx(graph, {"input": (batch, length, 4), "other": (batch, length)})
        assert [net.shape(name) for name in net.outputs] == [(batch * length, 5), (batch, 2 * length)]
        assert all(net.shape(op.output) is not None for op in net.ops.values() if op.kind != "assert")
    assert net.shape(view_fx(graph, {}).outputs[0]) is not None


def test_weights_are_constants_and_modules_are_origins(network):
    _, graph = network
    net = view_fx(graph, {})
    (linear,) = (op for op in net.ops.values() if op.kind == "matmul")
    assert linear.origin == "inner.0"
    assert net.array(linear.inputs[1]).shape == (5, 4)
    table = next(value for value in net.values.values() if value.constant and value.dtype == "bfloat16")
    assert net.array(table.name).dtype.name == "bfloat16"
    np.testing.assert_array_equal(net.array(table.name).astype(np.float32), graph.table.float().numpy())
    assert net.inputs == tuple(node.name for node in graph.graph.nodes if node.op == "placeholder")


@pytest.mark.parametrize(
    ("shapes", "word"),
    [
        ({"nope": (1,)}, "no input 'nope'"),
        ({"input": (2, 3)}, "'input' has 3 axes"),
        ({"input": (2, 3, 5)}, "Axis 2 of input 'input'.*fixed size 4"),
    ],
)
def test_shapes_that_do_not_fit_are_named(network, shapes, word):
    with pytest.raises(InputError, match=word):
        view_fx(network[1], shapes)


def test_two_inputs_that_share_a_size_must_agree():
    graph = graph_of(lambda a, b: a.sum(2) + b, torch.randn(2, 3, 4), torch.randn(2, 3), axes=(0, 1))
    with pytest.raises(InputError, match=r"tensors_1.* must be 5"):
        view_fx(graph, {"tensors_0": (5, 3, 4), "tensors_1": (6, 3)})


def test_a_size_that_depends_on_data_is_unknown():
    net = view_fx(graph_of(lambda x: x[x > 0].exp(), X), {})
    assert net.shape(net.outputs[0]) is None


def test_branches_are_nets():
    net = view_fx(graph_of(lambda x: torch.cond(x.sum() > 0, lambda t: (t + 1,), lambda t: (t.exp(),), (x,)), X), {})
    op = next(op for op in net.ops.values() if op.kind == "if")
    assert [[each.kind for each in branch.ops.values()] for branch in op.branches] == [["add"], ["exp"]]
    assert op.inputs[-1] == "tensors_0"


def test_bits_survive_the_way_to_numpy():
    for dtype, name in ((torch.bfloat16, "bfloat16"), (torch.float8_e4m3fn, "float8_e4m3fn"), (torch.int8, "int8")):
        tensor = (torch.randn(3, 4) * 3).to(dtype)
        array = as_numpy(tensor.t())
        assert (array.dtype.name, array.shape) == (name, (4, 3))
        np.testing.assert_array_equal(array.astype(np.float32), tensor.t().float().numpy())
