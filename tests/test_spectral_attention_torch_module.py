"""Tests of kernels/spectral_attention/torch_module.py: the module that is emitted gives the reference's numbers with torch alone."""

import inspect
from dataclasses import replace

import pytest
import torch

from szilard.kernels.spectral_attention import torch_module
from szilard.kernels.spectral_attention.prepare import prepare, simulate

from .sparse_attention import planted

HEADS, WIDTH, DEPTH = 3, 12, 7


@pytest.fixture(scope="module")
def prepared():
    queries, keys, _ = (x[0] for x in planted(0, 1, HEADS, 600, WIDTH, DEPTH))
    return replace(prepare(queries, keys, length=600, scale=0.3, tile=16), budget=4)


@pytest.mark.parametrize(("batch", "queries", "keys"), [(2, 333, 333), (1, 1, 1), (3, 17, 5), (1, 5, 257), (2, 129, 160)])
def test_equals_the_reference(prepared, batch, queries, keys):
    q, _, _ = planted(queries, batch, HEADS, queries, WIDTH, DEPTH)
    _, k, v = planted(keys + 1, batch, HEADS, keys, WIDTH, DEPTH)
    operands = [torch.from_numpy(x) for x in (q, k, v)]
    found = torch_module.build(prepared)(*operands)
    torch.testing.assert_close(found, simulate(prepared, *operands), rtol=1e-4, atol=2e-5)


def test_its_source_and_state_make_it_again(prepared):
    module = torch_module.build(replace(prepared, query_codebook=prepared.query_codebook[:, ::2]))
    names = {"torch": torch}
    exec(inspect.getsource(type(module)), names)
    again = eval(repr(module), names)
    again.load_state_dict(module.state_dict())
    operands = [torch.from_numpy(x) for x in planted(3, 2, HEADS, 150, WIDTH, DEPTH)]
    assert type(again) is not type(module)
    assert torch.equal(again(*operands), module(*operands))
