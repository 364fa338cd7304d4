"""Tests of kernels/spectral_attention/paper.py: the printed algorithm, and why it is only kept to compare with."""

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from szilard.kernels.spectral_attention.paper import k_means, paper_attention
from szilard.kernels.spectral_attention.prepare import prepare, simulate

from .sparse_attention import planted

SCALE = 32**-0.5


def relative(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


def test_all_samples_are_dense_attention():
    q, k, v = map(torch.from_numpy, planted(0, 2, 3, 45, 8, 5))
    found = paper_attention(q, k, v, scale=0.4, clusters=4, samples=45)
    torch.testing.assert_close(found, scaled_dot_product_attention(q, k, v, scale=0.4), rtol=1e-4, atol=1e-5)


def test_without_samples_a_query_sees_the_keys_of_its_cluster():
    q, k, v = map(torch.from_numpy, planted(1, 1, 2, 30, 6, 30))
    v = torch.eye(30).expand(1, 2, 30, 30)
    edges = paper_attention(q, k, v, scale=0.1, clusters=3, samples=0) > 0
    assert torch.equal(edges, edges.transpose(-1, -2))
    assert edges.diagonal(dim1=-2, dim2=-1).all()
    more = paper_attention(q, k, v, scale=0.1, clusters=3, samples=4) > 0
    assert torch.equal(more & edges, edges)
    assert ((more.sum(-1) - edges.sum(-1)) == (30 - edges.sum(-1)).clamp(max=4)).all()


def test_clusters_are_the_planted_ones():
    centres = torch.tensor([[0.0, 9.0], [9.0, 0.0], [-9.0, -9.0]])
    member = torch.arange(31) % 3
    points = centres[member] + torch.randn(31, 2, generator=torch.Generator().manual_seed(0))
    found = k_means(points[None, None], 3, 10)[0, 0]
    assert torch.equal(found[:, None] == found, member[:, None] == member)


def test_as_printed_it_loses_to_keeping_the_rest_as_centroids():
    calibration, (q, k, v) = planted(7, 1, 4, 512, 32, 24), map(torch.from_numpy, planted(3, 1, 4, 512, 32, 24))
    dense = scaled_dot_product_attention(q, k, v)
    printed = paper_attention(q, k, v, scale=SCALE, clusters=16, samples=23)
    prepared = prepare(calibration[0][0], calibration[1][0], length=512, scale=SCALE, tile=16, density=0.12)
    assert relative(simulate(prepared, q, k, v), dense) < 0.2 * relative(printed, dense)


def test_lengths_must_agree():
    q, k, v = (torch.from_numpy(x) for x in planted(1, 1, 2, 8, 4, 4))
    with pytest.raises(ValueError, match="8 and 5"):
        paper_attention(q, k[:, :, :5], v[:, :, :5], scale=1.0, clusters=2, samples=1)
    assert np.isfinite(paper_attention(q, k, v, scale=50.0, clusters=8, samples=0).numpy()).all()
