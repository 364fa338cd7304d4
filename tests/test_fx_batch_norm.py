"""A batch norm folded into the convolution before it: the same outputs, no norm left, in every form of convolution."""

import pytest
import torch
from torch import nn

from szilard.cost_model.errors import InputError
from szilard.cost_model.sites import ConvSite
from szilard.passes.fx_batch_norm import FxBatchNorm

from .fx_graphs import aten, choice, cleaned, distance, run, sites_of, targets, traced, without_values

NORM = aten._native_batch_norm_legit_no_training.default


def trained(norm: nn.Module) -> nn.Module:
    """Statistics and weights far from 0 and 1, variances of very different size."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        norm.running_mean.normal_(generator=generator)
        norm.running_var.copy_(torch.logspace(-3, 2, norm.num_features))
        if norm.affine:
            norm.weight.normal_(generator=generator)
            norm.bias.normal_(generator=generator)
    return norm


def folded(model: nn.Module, x: torch.Tensor):
    program = traced(model, x)
    graph = cleaned(program)
    sites = sites_of(graph, program, "conv")
    changed = FxBatchNorm().apply(graph, [choice("fold_batch_norm", sites)], sites)
    return program, graph, sites, changed


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("groups", [1, 3])
def test_a_convolution_takes_the_norm_in(bias, affine, groups):
    model = nn.Sequential(
        nn.Conv2d(6, 9, (3, 2), stride=2, bias=bias, groups=groups), trained(nn.BatchNorm2d(9, affine=affine)), nn.ReLU()
    )
    program, graph, sites, changed = folded(model, torch.randn(2, 6, 11, 7))
    assert changed == 1
    assert NORM not in targets(graph)
    assert distance(run(graph, program), run(program.graph, program)) < 1e-5
    assert without_values(graph) == []
    assert len(list(graph.parameters())) == 2
    assert not list(graph.buffers())
    assert FxBatchNorm().apply(graph, [choice("fold_batch_norm", sites)], sites) == 0


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_is_scaled_along_its_outputs(groups):
    model = nn.Sequential(nn.ConvTranspose1d(4, 6, 3, groups=groups), trained(nn.BatchNorm1d(6)))
    program = traced(model, torch.randn(2, 4, 9))
    graph = cleaned(program)
    nodes = {node.target: node for node in graph.graph.nodes}
    conv, norm = nodes[aten.convolution.default], nodes[NORM]
    site = ConvSite(
        "up", (conv.name, norm.name), "x", str(conv.args[1]), str(conv.args[2]), "getitem", norm.name, groups, "float32"
    )
    assert FxBatchNorm().apply(graph, [choice("fold_batch_norm", {"up": site})], {"up": site}) == 1
    assert distance(run(graph, program), run(program.graph, program)) < 1e-5


def test_two_convolutions_that_share_weights_are_folded_each_for_itself():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(3, 4, 2)
            self.first, self.second = trained(nn.BatchNorm1d(4)), nn.BatchNorm1d(4)

        def forward(self, x):
            return self.first(self.conv(x)), self.second(self.conv(2 * x))

    program, graph, _, changed = folded(Shared(), torch.randn(2, 3, 8))
    assert changed == 2
    assert distance(run(graph, program), run(program.graph, program)) < 1e-5


def test_an_unknown_site_is_named():
    program = traced(nn.Conv1d(3, 4, 2), torch.randn(1, 3, 5))
    with pytest.raises(InputError, match="'nowhere'"):
        FxBatchNorm().apply(cleaned(program), [choice("fold_batch_norm", {"nowhere": None})], {})
