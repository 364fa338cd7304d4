"""Clean-up: each rule on a graph made for it, random graphs before and after, and a second run that finds nothing."""

import operator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.passes.fx_clean_up import FxCleanUp

from .fx_graphs import GraphMaker, aten, cleaned, distance, net_of, random_graphs, run, targets, traced, traced_family


def clean(maker: GraphMaker, *outputs):
    """(cleaned module, number of changes); its results are those of the graph before, to the last bit."""
    graph = maker.module(*outputs)
    before = graph(*maker.tensors)
    changed = FxCleanUp().apply(graph, (), {})
    for a, b in zip(graph(*maker.tensors), before, strict=True):
        assert torch.equal(a, b)
        assert a.dtype == b.dtype
    return graph, changed


def test_asserts_copies_and_casts_to_the_same_go():
    maker = GraphMaker()
    x = maker.call(aten.relu.default, maker.x)
    maker.call(aten._assert_tensor_metadata.default, x, None, None, torch.float32)
    x = maker.call(aten.clone.default, x, memory_format=torch.contiguous_format)
    x = maker.call(aten._to_copy.default, x, dtype=torch.float32)
    x = maker.call(aten.dropout.default, x, 0.5, False)
    graph, changed = clean(maker, x)
    assert targets(graph) == [aten.relu.default]
    assert changed == 4


def test_a_copy_of_an_input_or_a_real_cast_stays():
    maker = GraphMaker()
    turned = maker.call(aten.permute.default, maker.x, [1, 0, 2])
    copy = maker.call(aten.clone.default, turned)
    double = maker.call(aten._to_copy.default, maker.y, dtype=torch.float64)
    graph, _ = clean(maker, copy, double)
    assert targets(graph) == [aten.permute.default, aten.clone.default, aten._to_copy.default]
    assert graph(*maker.tensors)[0].data_ptr() != maker.tensors[0].data_ptr()


def test_reshapes_that_do_nothing_go_and_two_become_one():
    maker = GraphMaker()
    x = maker.call(aten.relu.default, maker.x)
    x = maker.call(aten.view.default, x, [3, 4, 5])
    x = maker.call(aten.expand.default, x, [3, -1, 5])
    x = maker.call(aten.slice.Tensor, x, 1, 0, 2**63 - 1)
    x = maker.call(aten.permute.default, x, [0, -2, 2])
    x = maker.call(aten.view.default, x, [12, 5])
    x = maker.call(aten.view.default, x, [4, 15])
    graph, _ = clean(maker, x)
    assert targets(graph) == [aten.relu.default, aten.reshape.default]


def test_a_stepped_slice_and_a_part_stay():
    maker = GraphMaker()
    stepped = maker.call(aten.slice.Tensor, maker.x, 2, 0, 2**63 - 1, 2)
    part = maker.call(aten.slice.Tensor, maker.x, 2, 1, 2**63 - 1)
    graph, changed = clean(maker, stepped, part)
    assert targets(graph) == [aten.slice.Tensor] * 2
    assert changed == 0


def test_the_only_piece_of_a_split_is_what_was_split():
    maker = GraphMaker()
    x = maker.call(aten.relu.default, maker.x)
    whole = maker.call(operator.getitem, maker.call(aten.split_with_sizes.default, x, [5], -1), 0)
    halves = maker.call(aten.split_with_sizes.default, x, [2, 3], -1)
    graph, _ = clean(maker, whole, maker.call(operator.getitem, halves, 1))
    assert targets(graph) == [aten.relu.default, aten.split_with_sizes.default, operator.getitem]


def test_neutral_numbers_go_where_dtype_and_sign_of_zero_stay():
    maker = GraphMaker()
    counted = maker.call(aten.add.Tensor, maker.call(aten.arange.start_step, 0, 4), 0)
    times = maker.call(aten.mul.Tensor, maker.call(aten.neg.default, maker.x), 1.0)
    plus = maker.call(aten.add.Tensor, maker.x, 0)
    widened = maker.call(aten.mul.Tensor, counted, 1.0)
    graph, _ = clean(maker, counted, times, plus, widened)
    assert targets(graph) == [aten.arange.start_step, aten.neg.default, aten.add.Tensor, aten.mul.Tensor]


def test_equal_nodes_are_one_and_unequal_literals_are_not():
    maker = GraphMaker()
    values = [maker.call(aten.full.default, [2], fill, dtype=torch.float32) for fill in (0.0, -0.0, 1, 1.0, True, 0.0)]
    graph, _ = clean(maker, *values)
    assert len(targets(graph)) == 5


def test_random_numbers_are_never_shared():
    maker = GraphMaker()
    graph = maker.module(*(maker.call(aten.rand.default, [2, 3]) for _ in range(2)))
    FxCleanUp().apply(graph, (), {})
    first, second = graph(*maker.tensors)
    assert not torch.equal(first, second)


@settings(max_examples=60, deadline=None)
@given(random_graphs(), st.integers(0, 2**31))
def test_random_graphs_keep_their_outputs_and_a_second_run_finds_nothing(maker, seed):
    graph = maker.module(*maker.values[-3:])
    inputs = [torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed)) for tensor in maker.tensors]
    before = graph(*inputs)
    FxCleanUp().apply(graph, (), {})
    assert all(torch.equal(a, b) for a, b in zip(graph(*inputs), before, strict=True))
    assert FxCleanUp().apply(graph, (), {}) == 0
    assert all("val" in node.meta for node in graph.graph.nodes if node.op != "output")
    for node in graph.graph.nodes:
        assert node.op == "output" or node.users or node.op == "placeholder", f"{node} is dead"


def test_tied_weights_become_one():
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(11, 6)
            self.head = torch.nn.Linear(6, 11, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids):
            return self.head(self.table(ids))

    program = traced(Tied(), torch.arange(7)[None])
    graph = cleaned(program)
    assert sum(node.op == "get_attr" for node in graph.graph.nodes) == 1
    assert len(list(graph.parameters())) == 1
    assert distance(run(graph, program), run(program.graph, program)) == 0


@pytest.mark.long
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "vit"])
def test_transformers_keep_their_outputs(family):
    program = traced_family(family)
    graph = cleaned(program)
    assert distance(run(graph, program), run(program.graph, program)) < 1e-6
    assert len(graph.graph.nodes) < len(program.graph.graph.nodes)
    assert FxCleanUp().apply(graph, (), {}) == 0
    net_of(graph, program)
