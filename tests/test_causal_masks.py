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
    (site,) = causal.with_known_masks(program, backend, program.graph, net, find(net).sites)
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
        (lambda i, j: (i >= j) & (i - j < 50), False),  # one that is wider than what is seen of it
        (lambda i, j: (i >= j) & (j > i - 50), False),
        (lambda i, j: (i >= j) & ((i == LENGTH - 1) | (i - j != 3)), False),  # a gap that the last row does not have
        (lambda i, j: i + 1 >= j, False),
    ],
)
def test_a_mask_that_says_more_is_kept(monkeypatch, masked, alone):
    monkeypatch.setattr(causal, "LEAST_CAUSAL", 4)
    assert said(masked) is alone


def test_short_ones_are_not_looked_at():
    assert said(lambda i, j: i >= j) is False


def padded(masked, length=LENGTH, **options):
    """(`mask_is_causal`, `pads_keys`) of the attention of a model with that mask, made of positions and of the tokens that are there."""

    class Model(torch.nn.Module):
        def forward(self, x, there):
            i = torch.arange(x.shape[2], device=x.device)[:, None]
            mask = masked(i, i.mT, there[:, None, None])
            return torch.nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask, **options)

    program = traced(Model(), torch.randn(2, 3, length, 8), torch.ones(2, length, dtype=torch.int64))
    backend = TorchBackend(program)
    net = net_of(program.graph, program)
    (site,) = causal.with_known_masks(program, backend, program.graph, net, find(net).sites)
    assert isinstance(site, AttentionSite)
    return site.mask_is_causal, site.pads_keys


@pytest.mark.parametrize(
    ("masked", "known"),
    [
        (lambda i, j, t: t.bool(), (False, True)),
        (lambda i, j, t: (1 - t) * LOWEST, (False, True)),
        (lambda i, j, t: t.bool() & (i >= j), (True, True)),
        (lambda i, j, t: torch.where(t.bool() & (i >= j), 0.0, -torch.inf), (True, True)),
        # A query without a key of its own sees all of them, as some libraries have it.
        (lambda i, j, t: (m := t.bool() & (i >= j)) | ~m.any(-1, keepdim=True), (True, True)),
        (lambda i, j, t: (1 - t) * -50.0, (False, False)),
        (lambda i, j, t: (1 - t) * LOWEST - 0.1 * (i - j).abs(), (False, False)),
        (lambda i, j, t: t.bool() & ((i - j).abs() < 5), (False, False)),
        (lambda i, j, t: t.bool() | (i == j), (False, False)),  # padding that sees itself
        (lambda i, j, t: t.bool().mT, (False, False)),  # hides queries, not keys
        (lambda i, j, t: (t.cumsum(-1) > j / 2) & (i >= j), (False, False)),  # not the keys that are there
        (lambda i, j, t: torch.where(t.bool(), 3.0, 3.0 - 1e4), (False, False)),  # hidden, but not by what it adds alone
    ],
)
def test_padding_is_known_by_what_the_mask_does_with_it(monkeypatch, masked, known):
    monkeypatch.setattr(causal, "LEAST_CAUSAL", 4)
    assert padded(masked) == known
