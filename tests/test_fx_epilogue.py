"""Activations and residuals behind linears: which are found, that kernels with an epilogue take them in, and how they are priced.

Covers find_epilogue.py too."""

import numpy as np
import pytest
import torch
from torch import nn

import szilard
from szilard.cost_model.counts import count
from szilard.cost_model.device import load_device
from szilard.cost_model.price import price_net
from szilard.cost_model.sites import LinearSite
from szilard.cost_model.view_fx import view_fx
from szilard.kernels.quantized_linear.formats import TRITON_FORMATS, prepare_group
from szilard.passes.find import find
from szilard.passes.fx_quantize_linear import FxQuantizeLinear
from szilard.rewriter.backend import groups_of
from szilard.rewriter.backend_torch import TorchBackend
from szilard.rewriter.candidates import candidate, stand_in

from .fx_graphs import choice, cleaned, distance, groups, net_of, run, stored_linears, traced, without_values
from .nets import NetBuilder

WIDTH = 65


class Block(nn.Module):
    """x [..., 65] -> the same: three activations behind layers, a residual behind two of them, and a norm behind one residual."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(WIDTH, 130), nn.Linear(130, WIDTH)
        self.gate, self.back, self.norm = nn.Linear(WIDTH, 70, bias=False), nn.Linear(70, WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x + self.down(nn.functional.gelu(self.up(x))))
        return torch.relu(self.back(nn.functional.silu(self.gate(x)))) + x


def quantized(module, action, x, dynamic=None, merged="", planned=None):
    """(program, the clean graph, the rewritten one), with sites found at the shape `planned` of x, or at that of the sample."""
    program = traced(module, x, dynamic=dynamic)
    before, graph = cleaned(program), cleaned(program)
    found = find(view_fx(graph, {"x": planned or tuple(x.shape)})).sites
    sites, prepared = {site.id: site for site in found if isinstance(site, LinearSite)}, {}
    for each in groups(sites, action):
        weights, biases = stored_linears(graph, [sites[name] for name in each.sites])
        prepared |= dict(zip(each.sites, prepare_group(action, weights, biases), strict=True))
    rewrite = FxQuantizeLinear(prepared=prepared)
    assert rewrite.apply(graph, groups(sites, action + merged), sites) == len(sites)
    assert rewrite.apply(graph, groups(sites, action + merged), sites) == 0
    assert without_values(graph) == []
    return program, before, graph


def modules(graph):
    return [graph.get_submodule(node.target) for node in graph.graph.nodes if node.op == "call_module"]


def operators(graph):
    return [node.target.__name__.split(".")[0] for node in graph.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("action", TRITON_FORMATS)
def test_kernels_take_in_what_stands_behind_them(action):
    program, before, graph = quantized(Block(), action, torch.randn(3, 7, WIDTH))
    assert [module.activation for module in modules(graph)] == ["gelu", "none", "silu", "relu"]
    assert [len(node.args) for node in graph.graph.nodes if node.op == "call_module"] == [1, 2, 1, 2]
    assert not {"gelu", "sigmoid", "mul", "relu", "add", "linear"} & set(operators(graph))
    error = distance(run(graph, program), run(before, program))
    assert 1e-4 < error < (0.3 if action.startswith("int4") else 0.05)


@pytest.mark.parametrize("action", ["int8_column_weight", "bfloat16", "merged", "low_rank_half"])
@pytest.mark.parametrize(
    "inner",
    [
        lambda m, x: (y := x + m.first(x)) + m.first(y),
        lambda m, x: m.first(nn.functional.gelu(m.first(x))),
        lambda m, x: m.first(m.first(x)),
    ],
)
def test_a_layer_that_reads_what_it_wrote(inner, action):
    """Both uses are one choice, and the first takes away what the second read."""
    program = traced(Apart(inner), torch.randn(3, 7, WIDTH))
    graph, before = cleaned(program), cleaned(program)
    net = net_of(graph, program)
    (group,) = groups_of(find(net).sites)
    assert len(group.sites) == 2
    backend = TorchBackend(program)
    micro = candidate(backend, graph, net, group, action, load_device("h200"))
    if action == "merged":
        assert micro is None
        return
    prepared = stand_in(group, net, action)
    chosen = [choice(action, {site.id: site for site in group.sites})]
    changed = sum(
        p.apply(graph, chosen, {s.id: s for s in group.sites}) for names, p in backend.passes(prepared) if action in names
    )
    assert changed == 2
    assert distance(run(graph, program), run(before, program)) < (1 if action == "low_rank_half" else 0.02)


class Apart(nn.Module):
    """What `inner` makes of two layers and x."""

    def __init__(self, inner) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.inner = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(self, x)


@pytest.mark.parametrize(
    ("inner", "taken", "kept"),
    [
        # Two layers that meet in one add: the later takes it, and adds what the earlier wrote.
        (lambda m, x: m.first(x) + m.second(x.exp()), ["none", "none+"], {"exp"}),
        (lambda m, x: torch.relu(m.first(x)) + m.second(x.exp()), ["relu", "none+"], {"exp"}),
        # Read twice, so that it must be written.
        (lambda m, x: (y := m.first(x)) * torch.sigmoid(y) + torch.sigmoid(y), ["none"], {"add", "mul", "sigmoid"}),
        (lambda m, x: m.first(x) * torch.sigmoid(m.second(x.exp())), ["none", "none"], {"exp", "mul", "sigmoid"}),
        (lambda m, x: (y := m.first(x)) * torch.relu(y), ["none"], {"relu", "mul"}),
        (lambda m, x: torch.relu(y := m.first(x) + x) * y, ["none+"], {"relu", "mul"}),
        (lambda m, x: nn.functional.gelu(m.first(x), approximate="tanh"), ["none"], {"gelu"}),
        (lambda m, x: torch.add(m.first(x), x, alpha=2), ["none"], {"add"}),
        (lambda m, x: (y := m.first(x)) + y, ["none"], {"add"}),
        (lambda m, x: m.first(x) + x[:1], ["none"], {"add", "slice"}),
        (lambda m, x: torch.relu(m.first(x) + x.double()), ["none"], {"add", "relu", "_to_copy"}),
    ],
)
def test_the_same_values_whatever_stands_behind(inner, taken, kept):
    program, before, graph = quantized(Apart(inner), "int8_column_weight", torch.randn(3, 7, WIDTH))
    calls = [node for node in graph.graph.nodes if node.op == "call_module"]
    found = [module.activation + "+" * (len(node.args) - 1) for module, node in zip(modules(graph), calls, strict=True)]
    assert found == taken
    assert set(operators(graph)) == kept
    assert distance(run(graph, program), run(before, program)) < 0.02


def test_a_residual_that_broadcasts_for_other_sizes_than_the_planned_ones_is_left():
    module = Apart(lambda m, x: m.first(x) + x.mean(0, keepdim=True))
    program, before, graph = quantized(
        module, "int8_column_weight", torch.randn(3, 7, WIDTH), dynamic={"x": {0: "batch"}}, planned=(1, 7, WIDTH)
    )
    assert "add" in operators(graph)
    several = np.random.default_rng(0).standard_normal((5, 7, WIDTH)).astype(np.float32)
    assert distance(run(graph, program, x=several), run(before, program, x=several)) < 0.02


def test_layers_merged_into_one_leave_what_stands_behind_each():
    inner = lambda m, x: torch.relu(m.first(x)) + m.second(x)  # noqa: E731
    program, before, graph = quantized(Apart(inner), "int8_column_weight", torch.randn(3, 7, WIDTH), merged="_merged")
    assert [module.activation for module in modules(graph)] == ["none"]
    assert {"relu", "add"} < set(operators(graph))
    assert distance(run(graph, program), run(before, program)) < 0.02


def test_a_site_names_what_stands_behind_it():
    net = NetBuilder()
    x, w, b = net.input("x", 3, 5, 17), net.weight("w", 17, 17), net.weight("b", 17)
    layer = net.op("add", net.matmul(x, w), b)
    active = net.op("gelu", layer, approximate="none")
    total = net.op("add", x, active)
    (site,) = find(net.net(total)).sites
    assert (site.output, site.activation, site.residual) == (layer, (active,), total)
    (site,) = find(net.net(total, active)).sites
    assert (site.activation, site.residual) == ((active,), "")
    (site,) = find(net.net(total, layer)).sites
    assert (site.activation, site.residual) == ((), "")


def test_one_call_reads_the_residual_and_counts_what_it_took_in():
    program, _, graph = quantized(Block(), "int8_column_weight", torch.randn(3, 7, WIDTH))
    net = net_of(graph, program)
    up, down, *_ = (op for op in net.ops.values() if op.kind == "matmul_nbits")
    plain = 2 * 130 * WIDTH + 2 * 21 * 130
    assert count(up, net).flops["float32"] == plain + 20 * 21 * 130
    assert (down.inputs[0], down.inputs[-1]) == (up.output, program.inputs[0])
    assert net.values[down.inputs[1]].dtype == "int8"
    packed = sum(tensor.numel() * tensor.element_size() for tensor in modules(graph)[1].buffers())
    assert count(down, net).bytes == packed + 4 * 21 * (130 + 2 * WIDTH)


def test_on_cuda_every_op_is_in_one_footprint_at_most():
    program = traced(Block(), torch.randn(3, 7, WIDTH))
    graph, backend = cleaned(program), TorchBackend(program)
    net = net_of(graph, program)
    found = groups_of(find(net).sites)
    for name, taken in (("cpu", set()), ("h200", {"gelu", "sigmoid", "mul", "relu"})):
        ops = [op for group in found for op in backend.footprint(group, net, load_device(name))]
        assert len(ops) == len(set(ops)), name
        assert {net.ops[op].kind for op in ops} == {"matmul", "layer_norm", "identity", "add"} | taken


@pytest.mark.parametrize("rows", [1, 64])
def test_what_is_paid_is_the_price_of_the_rewritten_graph(rows):
    draw = np.random.default_rng(0)
    data = [{"x": draw.standard_normal((4, WIDTH)).astype(np.float32)} for _ in range(4)]
    result = szilard.rewrite(
        Block(), (torch.randn(4, WIDTH),), target="h200", calibration=data, workload=[f"{rows}x{WIDTH}"], budget=1e-3
    )
    (optimised,) = (each for each in result.optimised if each.backend.runtime == "torch")
    taken = [module for module in modules(optimised.program.graph) if hasattr(module, "activation")]
    assert {module.activation for module in taken} & {"gelu", "silu", "relu"}
    net = TorchBackend(optimised.program).view(optimised.program.graph, {"x": (rows, WIDTH)})
    paid = optimised.elsewhere[0] + sum(each.after.joules for each in optimised.choices)
    # To the weights' own form: a price is made with shifts in each group of 4 bits, and the best rounding may need none.
    assert paid == pytest.approx(price_net(net, load_device("h200")).total.joules, rel=1e-4)
