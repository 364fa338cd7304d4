"""Small graph edits keep fake values, names and module paths, and leave nothing dead behind."""

import operator

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

from szilard.passes.fx_graph import (
    add_constant,
    attribute,
    constant_of,
    fake_of,
    finish,
    insert_call,
    is_constant,
    is_equal,
    is_pure,
    node_of_value,
    relax_views,
    take_over,
)

from .fx_graphs import GraphMaker, aten, clone, run, targets, traced


class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 6, bias=False)
        self.spare = nn.Linear(2, 2)

    def forward(self, x):
        a, b = (x @ self.inner.weight.t().half().float()).split([2, 4], -1)
        return a.relu(), b * x.shape[0]


@pytest.fixture(scope="module")
def program():
    return traced(Weighted(), torch.randn(3, 4), dynamic={"x": {0: "rows"}})


def nodes_of(graph):
    return {node.name: node for node in graph.graph.nodes}


def test_a_constant_is_a_weight_and_what_is_made_of_it_alone(program):
    graph = clone(program.graph)
    product = next(node for node in graph.graph.nodes if node.target in (aten.mm.default, aten.matmul.default))
    x, weight = product.args
    assert is_constant(weight)
    assert not is_constant(x)
    assert not is_constant(product)
    assert torch.equal(constant_of(graph, weight), graph.get_parameter("inner.weight").t().half().float())
    assert constant_of(graph, x) is None
    assert constant_of(graph, 3) is None


def test_the_search_for_a_constant_is_bounded():
    maker = GraphMaker()
    graph = maker.graph_module
    graph.register_parameter("w", nn.Parameter(torch.ones(3)))
    node = graph.graph.get_attr("w")
    fake_of(graph, node)
    for _ in range(40):
        node = maker.call(aten.add.Tensor, node, node)
    assert not is_constant(node)
    x = maker.x
    for _ in range(200):
        x = maker.call(aten.add.Tensor, x, x)
    assert not is_constant(x)


def test_pure_is_without_chance_and_without_writing():
    maker = GraphMaker()
    assert is_pure(maker.call(aten.relu.default, maker.x))
    assert not is_pure(maker.call(aten.rand.default, [2]))
    assert not is_pure(maker.call(aten.add_.Tensor, maker.x, maker.y))
    assert not is_pure(maker.x)
    assert is_pure(maker.graph_module.graph.call_function(operator.mul, (2, 3)))


def test_sizes_are_equal_only_where_that_is_known(program):
    rows = nodes_of(program.graph)["x"].meta["val"].shape[0]
    assert is_equal(rows, rows)
    assert not is_equal(rows, 3)
    assert is_equal(2, 2)


def test_outputs_are_found_by_value_name_and_made_where_missing():
    maker = GraphMaker()
    split = maker.call(aten.split_with_sizes.default, maker.x, [2, 3], -1)
    first = maker.call(operator.getitem, split, 0)
    graph = maker.graph_module
    assert node_of_value(graph, split.name) is split
    assert node_of_value(graph, f"{split.name}.0") is first
    second = node_of_value(graph, f"{split.name}.1")
    assert (second.target, tuple(second.meta["val"].shape)) == (operator.getitem, (3, 4, 3))
    for missing in ("nowhere", "nowhere.0", f"{split.name}.x"):
        with pytest.raises(KeyError):
            node_of_value(graph, missing)


def test_a_new_node_takes_name_readers_and_place():
    maker = GraphMaker()
    old = maker.call(aten.relu.default, maker.x)
    reader = maker.call(aten.neg.default, old)
    graph = maker.module(reader)
    name = old.name
    with graph.graph.inserting_before(old):
        new = insert_call(graph, aten.add.Tensor, (maker.x, 1), like=old)
    take_over(new, old)
    finish(graph)
    assert new.name == name
    assert reader.args == (new,)
    assert torch.equal(graph(*maker.tensors)[0], -(maker.tensors[0] + 1))
    again = clone(graph)
    assert [node.name for node in again.graph.nodes] == [node.name for node in graph.graph.nodes]
    assert torch.equal(again(*maker.tensors)[0], graph(*maker.tensors)[0])


def test_new_weights_get_free_names_and_fake_values():
    maker = GraphMaker()
    graph = maker.module(maker.x)
    with graph.graph.inserting_before(next(iter(reversed(graph.graph.nodes)))):
        first, second = (add_constant(graph, "layer.0 q+k", torch.ones(2, count), maker.x) for count in (3, 4))
    assert (first.target, second.target) == ("layer_0_q_k", "layer_0_q_k_1")
    assert tuple(second.meta["val"].shape) == (2, 4)
    assert not attribute(graph, "layer_0_q_k").requires_grad


def test_weights_that_nothing_reads_go_and_shared_copies_stay_whole(program):
    graph = GraphModule(program.graph, program.graph.graph)
    graph.register_buffer("unread", torch.ones(2))
    graph.inner.register_buffer("other", torch.ones(2))
    finish(graph)
    assert list(dict(graph.named_parameters())) == ["inner.weight"]
    assert not list(graph.buffers())
    assert attribute(program.graph, "inner.weight") is attribute(graph, "inner.weight")


def test_views_are_relaxed_and_values_stay_fresh(program):
    graph = clone(program.graph)
    before = run(graph, program)
    maker = GraphMaker()
    maker.call(aten.view.default, maker.x, [60])
    maker.call(aten._unsafe_view.default, maker.x, [12, 5])
    assert relax_views(maker.graph_module) == 2
    assert targets(maker.graph_module) == [aten.reshape.default] * 2
    finish(graph)
    assert all(torch.equal(a, b) for a, b in zip(run(graph, program), before, strict=True))
