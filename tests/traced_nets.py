"""A PyTorch module as a `Net` together with what each of its values is on the sample."""

import torch

from szilard.cost_model.view_fx import view_fx
from szilard.passes.fx_clean_up import FxCleanUp
from szilard.rewriter.trace_torch import trace_module


class _Recorder(torch.fx.Interpreter):
    def __init__(self, graph):
        super().__init__(graph)
        self.seen = {}

    def run_node(self, node):
        result = super().run_node(node)
        if isinstance(result, torch.Tensor):
            self.seen[node.name] = result.detach().numpy()
        return result


def traced_net(module, sample, dynamic=None):
    """(net, value name -> array) of a module in evaluation mode; `sample` maps parameter names of forward to tensors."""
    graph = trace_module(module.eval(), sample, dynamic).graph
    FxCleanUp().rewrite(graph)
    graph.recompile()
    recorder = _Recorder(graph)
    recorder.run(*sample.values())
    return view_fx(graph, {name: tuple(tensor.shape) for name, tensor in sample.items()}), recorder.seen
