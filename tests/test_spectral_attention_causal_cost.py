"""Tests of kernels/spectral_attention/causal_cost.py: the steps written out compute the operator, with sizes that are all known."""

from dataclasses import replace

import pytest

from szilard.kernels.spectral_attention.causal_cost import causal_net
from szilard.kernels.spectral_attention.causal_prepare import CausalPrepared

from .causal_attention import SMALL

PREPARED = CausalPrepared((2, None), 0.4, SMALL)


def multiplied(net):
    """Elements of the results of all products of matrices."""
    total = 0
    for op in net.ops.values():
        if op.kind == "matmul":
            size = 1
            for each in net.shape(op.outputs[0]):
                size *= each
            total += size
    return total


def test_every_size_is_known():
    net = causal_net(PREPARED, 2, 1, 50, 8)
    assert net.shape(net.outputs[0]) == (2, 2, 50, 8)
    assert "scan" not in {op.kind for op in net.ops.values()}
    assert all(isinstance(size, int) for op in net.ops.values() for name in op.outputs for size in net.shape(name))


def test_sparse_heads_grow_slower_than_dense_ones():
    dense = replace(PREPARED, budgets=(None, None))
    sparse = replace(PREPARED, budgets=(2, 2))
    ratios = [multiplied(causal_net(each, 1, 1, 64, 8)) / multiplied(causal_net(each, 1, 1, 32, 8)) for each in (dense, sparse)]
    assert ratios[0] > ratios[1] > 1.5


@pytest.mark.parametrize("length", [1, 8, 9, 40, 41, 56, 57, 104])
def test_steps_of_a_layout(length):
    """All queries of a step see the same segments closed, and the steps hold all queries."""
    front = SMALL.front
    usable = SMALL.usable(length)
    by_content = usable[:, -(-length // 8) * 4 :].sum(1).tolist()
    for step in range(SMALL.steps(length)):
        first = (step * SMALL.segment - front) // SMALL.query_tile
        seen = by_content[max(first, 0) : first + SMALL.segment // SMALL.query_tile]
        assert len(set(seen)) <= 1
    assert SMALL.steps(length) * SMALL.segment - front >= length > (SMALL.steps(length) - 1) * SMALL.segment - front
