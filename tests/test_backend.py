"""What both backends promise: groups, copies that leave the original alone, parts that run, and a pass for every action offered."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from szilard.cost_model.device import load_device
from szilard.cost_model.plan import Choice
from szilard.cost_model.sites import ConvSite, Region
from szilard.kernels.low_rank.factors import SHARES
from szilard.kernels.quantized_embedding.formats import BITS
from szilard.kernels.quantized_linear.formats import INTEGER_INPUTS
from szilard.passes.find import find
from szilard.passes.onnx_quantize_conv import ON_CODES
from szilard.rewriter.backend import EXACT_ACTIONS, FORMAT_ACTIONS, groups_of
from szilard.rewriter.backend_onnx import OnnxBackend
from szilard.rewriter.backend_torch import TorchBackend
from szilard.rewriter.export_onnx import export_onnx

from .fx_graphs import traced

CONVOLUTION = ConvSite("c", ("c",), "x", "w", "", "y", "norm", 1, "float32")
RESIDUAL = Region("r", "residual_norm", ("add", "norm"), ("a", "b"), ("y",), "float32")


class Mixing(nn.Module):
    """Attention of three heads with masked scores, spelled out, behind a convolution with a batch norm, and a residual norm."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.batch = nn.Conv1d(12, 12, 3, padding=1), nn.BatchNorm1d(12)
        self.query, self.key, self.value, self.out = (nn.Linear(12, 12) for _ in range(4))
        self.norm = nn.LayerNorm(12)

    def forward(self, x):
        x = self.batch(self.conv(x.transpose(1, 2))).transpose(1, 2)
        q, k, v = (each(x).view(*x.shape[:2], 3, 4).transpose(1, 2) for each in (self.query, self.key, self.value))
        mixed = torch.softmax(q @ k.transpose(-1, -2) * 0.5, -1) @ v
        return self.norm(x + self.out(mixed.transpose(1, 2).reshape(x.shape)))


@pytest.fixture(scope="module")
def programs():
    """The module on both runtimes, x [2, 7, 12]."""
    program = traced(Mixing(), torch.randn(2, 7, 12))
    return {"torch": program, "onnxruntime": export_onnx(program)}


@pytest.fixture(params=["onnxruntime", "torch"])
def opened(request, programs):
    """(backend, clean graph, net, groups by kind, feeds)."""
    program = programs[request.param]
    backend = TorchBackend(program) if request.param == "torch" else OnnxBackend(program.sample)
    graph = backend.clone(program.graph)
    backend.clean_up(graph)
    net = backend.view(graph, {name: array.shape for name, array in program.sample.items()})
    groups = {}
    for group in groups_of(find(net).sites):
        groups.setdefault(group.kind, []).append(group)
    return backend, graph, net, groups, dict(program.sample)


def outputs(backend, graph, feeds) -> list[np.ndarray]:
    with backend.runner(graph) as run:
        return list(run(feeds).values())


def test_linears_on_one_input_are_one_group_and_others_stand_alone(opened):
    _, _, _, groups, _ = opened
    assert [len(group.sites) for group in groups["linear"]] == [3, 1]
    assert [len(group.sites) for kind in ("attention", "conv", "region") for group in groups[kind]] == [1, 1, 1]
    query = groups["linear"][0]
    assert query.outputs == tuple(site.output for site in query.sites)
    assert set(query.ops) == {op for site in query.sites for op in site.ops}
    assert groups["conv"][0].outputs == (groups["conv"][0].sites[0].output,)
    assert groups["region"][0].outputs == ()


def test_a_clone_is_rewritten_and_the_original_is_not(opened):
    backend, graph, _, groups, feeds = opened
    text, nodes, before = backend.print_step(graph), backend.node_count(graph), outputs(backend, graph, feeds)
    clone = backend.clone(graph)
    assert backend.print_step(clone) == text
    (group,) = groups["attention"]
    choice = Choice(group.id, "attention", "fused_attention", (), (group.id,), backend.runtime, "")
    (fuse,) = [each for actions, each in backend.passes({}) if "fused_attention" in actions]
    assert fuse.apply(clone, [choice], {group.id: group.sites[0]}) == 1
    backend.lint(clone)
    assert backend.node_count(clone) < nodes
    assert backend.node_count(graph) == nodes
    assert backend.print_step(graph) == text
    for got, want in zip(outputs(backend, clone, feeds), before, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_array_equal(outputs(backend, graph, feeds)[0], before[0])


def test_copies_share_their_weights(opened):
    backend, graph, _, _, _ = opened
    clone = backend.clone(graph)
    if backend.runtime == "torch":
        pairs = zip(graph.state_dict().values(), clone.state_dict().values(), strict=True)
        assert all(a.data_ptr() == b.data_ptr() for a, b in pairs)
        assert graph.state_dict().keys() == clone.state_dict().keys()
    else:
        for name, value in graph.graph.initializers.items():
            assert clone.graph.initializers[name].const_value is value.const_value


def test_what_is_cut_out_runs_by_its_own_names_and_gives_the_same_values(opened):
    backend, graph, net, groups, feeds = opened
    group = groups["linear"][0]
    micro = backend.extract(graph, net, backend.footprint(group, net, load_device("cpu")))
    part = backend.view(micro, {})
    with backend.probe(graph, [*part.inputs, *group.outputs], group.outputs) as probe:
        inner = probe.capture(feeds, [*part.inputs])
        wanted = [probe.capture(feeds, [value])[value] for value in group.outputs]
    found = outputs(backend, micro, inner)
    assert len(found) == len(wanted) == 3
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("target", ["cpu", "h200"])
def test_every_action_offered_has_a_pass_and_the_passes_share_none(opened, target):
    backend, _, net, groups, _ = opened
    taken = [action for actions, _ in backend.passes({}) for action in actions]
    # That one fuses first, and goes on behind the formats of the linears.
    assert sorted(taken) == sorted([*set(taken), *({"keyed_attention"} & set(taken))])
    assert set(taken) <= EXACT_ACTIONS | FORMAT_ACTIONS | {"spectral_sparse", *ON_CODES, *SHARES, *BITS}
    for group in (group for found in groups.values() for group in found):
        offered = backend.actions(group, net, load_device(target))
        assert {action for action, reason in offered.items() if not reason} <= set(taken)
        assert set(offered) <= {*taken, "block_sparse", "two_of_four"}
        assert all(reason == "" or len(reason.split()) > 4 for reason in offered.values())


def test_what_each_kind_of_site_may_become(opened):
    backend, _, net, groups, _ = opened
    cpu = load_device("cpu")
    (attention,) = groups["attention"]
    shared, single = (backend.actions(group, net, cpu) for group in groups["linear"])
    mergeable = {*INTEGER_INPUTS, "bfloat16"} & set(single)
    assert set(shared) - set(single) == {"merged", *(f"{name}_merged" for name in mergeable)}
    refused = {action for action, reason in single.items() if reason} - {"bfloat16"}
    assert refused == {*SHARES, "block_sparse", "two_of_four"}
    offered = backend.actions(attention, net, cpu)
    assert offered["fused_attention"] == ""
    assert "7 tokens" in offered["spectral_sparse"]
    folded, alone, region = groups_of([CONVOLUTION, replace(CONVOLUTION, id="d", batch_norm=""), RESIDUAL])
    on_codes = {"int8_conv": ""} if backend.runtime == "onnxruntime" else {}
    assert backend.actions(folded, net, cpu) == {"fold_batch_norm": "", **on_codes}
    assert backend.actions(alone, net, cpu) == on_codes
    expected = {"skip_layer_norm": "", "sum_layer_norm": ""} if backend.runtime == "onnxruntime" else {}
    assert backend.actions(region, net, cpu) == expected
