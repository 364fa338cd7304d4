"""The protocol: a pass that changes something leaves a linted graph without dead nodes; one that does not leaves it as it was."""

from dataclasses import FrozenInstanceError, dataclass

import pytest
import torch

from szilard.passes.fx_attention import FxAttention
from szilard.passes.fx_batch_norm import FxBatchNorm
from szilard.passes.fx_clean_up import FxCleanUp
from szilard.passes.fx_graph import take_over
from szilard.passes.fx_merge_linear import FxMergeLinear
from szilard.passes.fx_pass import FxPass
from szilard.passes.fx_quantize_linear import FxQuantizeLinear

from .fx_graphs import GraphMaker, aten, choice, targets


@dataclass(frozen=True)
class Halve(FxPass):
    """Replaces relu by its operand, as far as `most` allows."""

    name = "halve"
    most: int = 1

    def rewrite(self, graph, choices, sites):
        found = [node for node in graph.graph.nodes if node.target is aten.relu.default][: self.most]
        for node in found:
            node.replace_all_uses_with(node.args[0])
        return len(found)


def test_dead_nodes_go_and_the_code_is_made_again():
    maker = GraphMaker()
    graph = maker.module(maker.call(aten.relu.default, maker.call(aten.neg.default, maker.x)))
    assert Halve().apply(graph, (), {}) == 1
    assert targets(graph) == [aten.neg.default]
    assert torch.equal(graph(*maker.tensors)[0], -maker.tensors[0])
    code = graph.code
    assert Halve().apply(graph, (), {}) == 0
    assert graph.code == code


def test_a_broken_graph_is_noticed():
    class Breaks(FxPass):
        name = "breaks"

        def rewrite(self, graph, choices, sites):
            relu = next(node for node in graph.graph.nodes if node.target is aten.relu.default)
            late = graph.graph.call_function(aten.neg.default, (relu.args[0],))
            take_over(late, relu)
            return 1

    maker = GraphMaker()
    graph = maker.module(maker.call(aten.relu.default, maker.x))
    with pytest.raises(RuntimeError, match="used before it has been defined"):
        Breaks().apply(graph, (), {})


def test_passes_have_names_and_fixed_options():
    passes = [FxCleanUp(), FxAttention(), FxBatchNorm(), FxMergeLinear(), FxQuantizeLinear()]
    assert len({each.name for each in passes}) == 5
    with pytest.raises(FrozenInstanceError):
        Halve().most = 3


@pytest.mark.parametrize("each", [FxAttention(), FxBatchNorm(), FxMergeLinear(), FxQuantizeLinear()])
def test_choices_of_other_passes_are_left_alone(each):
    maker = GraphMaker()
    graph = maker.module(maker.call(aten.relu.default, maker.x))
    others = [choice(action, {"unknown": None}) for action in ("leave", "skip_layer_norm", "spectral_sparse")]
    assert each.apply(graph, others, {}) == 0
    assert targets(graph) == [aten.relu.default]
