"""Printed graphs are valid Python with identical outputs, at the traced sizes and at others, and read like PyTorch."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from szilard.cost_model.errors import InputError
from szilard.kernels.quantized_linear.formats import prepare
from szilard.passes.fx_quantize_linear import FxQuantizeLinear
from szilard.rewriter.print_fx import print_fx, weights_of

from .fx_graphs import GraphMaker, aten, choice, cleaned, distance, random_graphs, run, sites_of, traced, traced_family


def rebuilt(graph, dynamic=None):
    """(text, module made from the text with the graph's weights)."""
    text = print_fx(graph, dynamic)
    space: dict = {}
    exec(compile(text, "printed", "exec"), space)
    model = space["Model"]()
    model.load_state_dict(weights_of(graph))
    return text, model.eval()


class Small(nn.Module):
    """A bit of everything that has a plain form, and a few that have none."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(13, 12)
        self.norm, self.groups, self.batch = nn.LayerNorm(12), nn.GroupNorm(3, 12), nn.BatchNorm1d(12)
        self.conv, self.up, self.pool = (
            nn.Conv1d(12, 12, 3, padding=1),
            nn.ConvTranspose1d(12, 12, 2, stride=2),
            nn.MaxPool2d((1, 2)),
        )
        self.query, self.key = nn.Linear(12, 12), nn.Linear(12, 12, bias=False)
        self.register_buffer("shift", torch.tensor([1.5, -0.0, 3.0]).repeat(4))

    def forward(self, ids, keep):
        x = self.norm(self.embed(ids)) + self.shift
        q, k = (f(x).view(*x.shape[:2], 3, 4).transpose(1, 2) for f in (self.query, self.key))
        x = (
            nn.functional.scaled_dot_product_attention(q, k, k, attn_mask=keep[:, None, None, :])
            .transpose(1, 2)
            .reshape(x.shape)
        )
        x = torch.where(x > 0.1, x, -(x**2)) * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        y = self.pool(self.up(self.batch(self.groups(self.conv(x.transpose(1, 2))))).unsqueeze(2)).squeeze(2)
        a, _, c = y.split([5, 3, 4], 1)
        top, place = torch.topk(a, 2, dim=1)
        first = torch.log_softmax(c, -1)[:, 1:, ::2].cumsum(1)
        return nn.functional.gelu(top, approximate="tanh"), place, first.clamp(max=0), (ids != 3) & keep, x.std(-1)


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    sample = torch.randint(0, 13, (2, 10)), torch.rand(2, 10) > 0.2
    model = Small().eval()
    model.batch.running_var.fill_(2.5)
    names = {name: {0: "batch", 1: "sequence"} for name in ("ids", "keep")}
    return traced(model, *sample, dynamic=names)


@pytest.mark.parametrize("clean", [True, False])
def test_the_text_computes_the_same_at_two_sizes(small, clean):
    graph = cleaned(small) if clean else small.graph
    _, model = rebuilt(graph, small.dynamic)
    assert distance(run(model, small), run(graph, small)) == 0
    other = {"ids": np.arange(36).reshape(3, 12) % 13, "keep": np.ones((3, 12), bool)}
    assert distance(run(model, small, **other), run(graph, small, **other)) == 0


def test_the_text_reads_like_pytorch(small):
    text, _ = rebuilt(cleaned(small), small.dynamic)
    assert "        batch = keep.shape[0]\n" in text
    assert re.search(r"linear = F.linear\(\w+, self.query_weight, self.query_bias\)  # \[batch, sequence, 12\]", text)
    assert re.search(r"\w+ = F.layer_norm\(\w+, \[12\], self.norm_weight, self.norm_bias, 1e-05\)", text)
    assert "F.scaled_dot_product_attention(" in text
    assert re.search(r"pieces, _, pieces_1 = \w+.split\(\[5, 3, 4\], 1\)", text)
    assert "\n        # " in text
    assert "getitem" not in text
    assert not re.search(r"reshape\(.*#", text), "a view makes no tensor, so that it has no shape comment"
    assert max(map(len, text.splitlines())) < 200


def test_names_are_used_again_so_that_layers_read_alike():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3))

        def forward(self, x):
            for layer in self.layers:
                x = layer(x) + x
            return x

    program = traced(Twice(), torch.randn(2, 4))
    text, model = rebuilt(cleaned(program))
    assert distance(run(model, program), run(program.graph, program)) == 0
    assert text.count("        linear = F.linear(") == 3
    assert text.count("# layers.1\n") == 1


def test_sizes_are_named_after_the_input_where_nothing_else_names_them(small):
    assert "        ids_0 = keep.shape[0]\n" in print_fx(small.graph)


def test_literals_survive_to_the_last_bit():
    maker = GraphMaker()
    numbers = [float("inf"), -float("inf"), 0.1, -0.0, 1e-45]
    graph = maker.module(*(maker.call(aten.full.default, [2], number, dtype=torch.float64) for number in numbers))
    text, model = rebuilt(graph)
    assert text.startswith("import math\n\nimport torch\n")
    for a, b in zip(model(*maker.tensors), graph(*maker.tensors), strict=True):
        assert a.numpy().tobytes() == b.numpy().tobytes()


def test_weights_keep_their_dtype_and_tied_ones_are_stored_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 3)
            self.b = nn.Linear(3, 3)
            self.b.weight = self.a.weight
            self.register_buffer("short", torch.ones(3, dtype=torch.bfloat16))

        def forward(self, x):
            return self.b(self.a(x)) + self.short

    program = traced(Tied(), torch.randn(2, 3))
    text, model = rebuilt(program.graph)
    weights = weights_of(program.graph)
    assert len(weights) == 4
    assert "dtype=torch.bfloat16" in text
    assert len({tensor.untyped_storage().data_ptr() for tensor in weights.values()}) == 4
    assert distance(run(model, program), run(program.graph, program)) == 0


def test_weights_that_are_parts_of_one_storage_are_stored_apart():
    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            whole = torch.randn(4, 6)
            self.register_buffer("top", whole[:2])
            self.register_buffer("rest", whole[2:])
            self.register_buffer("turned", whole.t())

        def forward(self, x):
            return x @ self.top, x @ self.rest, x[:, :1] * self.turned[0]

    program = traced(Parts(), torch.randn(3, 2))
    weights = weights_of(program.graph)
    assert len({tensor.untyped_storage().data_ptr() for tensor in weights.values()}) == 3
    assert all(tensor.is_contiguous() for tensor in weights.values())
    _, model = rebuilt(program.graph)
    assert distance(run(model, program), run(program.graph, program)) < 1e-6


@pytest.mark.parametrize("action", ["int8_dynamic", "int4_weight"])
def test_kernel_modules_stand_in_the_text(action):
    program = traced(nn.Linear(64, 48), torch.randn(5, 64))
    graph = cleaned(program)
    sites = sites_of(graph, program, "linear")
    tensors = {name: tensor.detach().numpy() for name, tensor in graph.named_parameters()}
    prepared = {name: prepare(action, tensors["weight"].T, tensors["bias"]) for name in sites}
    FxQuantizeLinear(prepared=prepared).apply(graph, [choice(action, sites)], sites)
    text, model = rebuilt(graph)
    assert "class Int8Linear(" in text or "class BlockLinear(" in text
    assert distance(run(model, program), run(graph, program)) == 0


def test_an_operator_without_a_name_is_refused():
    def local(x):
        return x * 2

    maker = GraphMaker()
    with pytest.raises(InputError, match="no name in plain PyTorch"):
        print_fx(maker.module(maker.call(local, maker.x)))


@settings(max_examples=60, deadline=None)
@given(random_graphs())
def test_random_graphs_print_to_the_same_function(maker):
    graph = maker.module(*maker.values[-3:])
    _, model = rebuilt(graph)
    assert all(torch.equal(a, b) for a, b in zip(model(*maker.tensors), graph(*maker.tensors), strict=True))


@pytest.mark.long
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "vit", "t5", "whisper"])
def test_transformers_print_to_the_same_function(family):
    program = traced_family(family)
    graph = cleaned(program)
    text, model = rebuilt(graph, program.dynamic)
    assert distance(run(model, program), run(graph, program)) == 0
    assert max(map(len, text.splitlines())) < 320
