"""Masks that hide the later positions and nothing else, and masks that say more: rewriter/causal.py."""

import pytest
import torch

from szilard.cost_model.sites import AttentionSite
from szilard.passes.find import find
from szilard.rewriter import causal
from szilard.rewriter.backend_torch import TorchBackend

from .fx_graphs import net_of, traced

LENGTH = 12


def said(masked, length=LENGTH):
    """Whether the attention of a model with that mask, made of positions, is seen as causal."""

    class Model(torch.nn.Module):
        def forward(self, x):
            places = torch.arange(x.shape[2], device=x.device)
            return torch.nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=masked(places[:, None], places))

    program = traced(Model(), torch.randn(1, 2, length, 8))
    backend = TorchBackend(program)
    net = net_of(program.graph, program)
    (site,) = causal.with_causal_masks(program, backend, program.graph, net, find(net).sites)
    assert isinstance(site, AttentionSite)
    return site.mask_is_causal


LOWEST = torch.finfo(torch.float32).min


@pytest.mark.parametrize(
    ("masked", "alone"),
    [
        (lambda i, j: i >= j, True),
        (lambda i, j: torch.where(i >= j, 0.0, LOWEST), True),
        (lambda i, j: torch.where(i >= j, 3.0, -1e5), True),
        (lambda i, j: torch.where(i >= j, 0.0, -50.0), False),  # still lets a little through
        (lambda i, j: torch.where(i >= j, -0.01 * (i - j), LOWEST), False),  # a bias by distance
        (lambda i, j: (i >= j) & (i - j < 5), False),  # a window
        (lambda i, j: (i >= j) & ((i == LENGTH - 1) | (i - j != 3)), False),  # a gap that the last row does not have
        (lambda i, j: i + 1 >= j, False),
    ],
)
def test_a_mask_that_says_more_is_kept(monkeypatch, masked, alone):
    monkeypatch.setattr(causal, "LEAST_CAUSAL", 4)
    assert said(masked) is alone


def test_short_ones_are_not_looked_at():
    assert said(lambda i, j: i >= j) is False
