"""Traced graphs for the tests of the FX passes: tiny transformers and hand-written attention, with their sites and choices."""

import copy
import functools
import operator

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn
from torch.fx import GraphModule

from szilard.cost_model.plan import Choice, Option
from szilard.cost_model.program import Program
from szilard.cost_model.sites import kind_of
from szilard.cost_model.view_fx import view_fx
from szilard.models.tiny_transformers import FAMILIES
from szilard.passes.find import find
from szilard.passes.fx_clean_up import FxCleanUp
from szilard.passes.fx_graph import aten, insert_call
from szilard.rewriter.trace_torch import trace_module


@functools.cache
def traced_family(name: str, attention: str = "sdpa") -> Program:
    """A tiny random transformer as traced; `attention` is "sdpa" or "eager". Clone its graph before changing it."""
    module, sample = FAMILIES[name]()
    for inner in module.modules():
        if hasattr(inner, "set_attn_implementation"):
            inner.set_attn_implementation(attention)
    return trace_module(module, sample)


def traced(module: nn.Module, *inputs: torch.Tensor, dynamic=None) -> Program:
    """A hand-written module as traced; its axes are fixed unless `dynamic` says otherwise."""
    return trace_module(module.eval(), inputs, dynamic={} if dynamic is None else dynamic)


def cleaned(program: Program) -> GraphModule:
    """A clean copy of the program's graph, as the passes get it."""
    graph = clone(program.graph)
    FxCleanUp().apply(graph, (), {})
    return graph


def clone(graph: GraphModule) -> GraphModule:
    return copy.deepcopy(graph)


def net_of(graph: GraphModule, program: Program):
    return view_fx(graph, {name: tuple(array.shape) for name, array in program.sample.items()})


def sites_of(graph: GraphModule, program: Program, kind: str) -> dict:
    """The sites of one kind by id."""
    return {site.id: site for site in find(net_of(graph, program)).sites if kind_of(site) == kind}


def choice(action: str, sites: dict, name: str = "group") -> Choice:
    option = Option(action, 1.0, 1.0, "roofline")
    return Choice(name, "linear", action, (option,), tuple(sites), "torch", "because a test says so")


def groups(sites: dict, action: str) -> list[Choice]:
    """One choice for each group of linear sites."""
    members: dict[str, dict] = {}
    for name, site in sites.items():
        members.setdefault(site.group, {})[name] = site
    return [choice(action, found, name) for name, found in members.items()]


def run(graph: GraphModule, program: Program, **other: np.ndarray) -> list[torch.Tensor]:
    """Flat outputs on the program's sample, or on `other` inputs."""
    with torch.inference_mode():
        results = graph(*(torch.from_numpy(np.array(other.get(name, program.sample[name]))) for name in program.inputs))
    return list(torch.utils._pytree.tree_leaves(results))


def distance(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    """The largest absolute difference over the largest absolute value; infinite where shapes, dtypes or NaNs differ."""
    worst = 0.0
    for a, b in zip(found, wanted, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype or bool((a.isnan() != b.isnan()).any()):
            return float("inf")
        scale = float(b.double().nan_to_num().abs().max()) or 1.0
        worst = max(worst, float((a.double() - b.double()).nan_to_num().abs().max()) / scale)
    return worst


def targets(graph: GraphModule) -> list:
    return [node.target for node in graph.graph.nodes if node.op.startswith("call")]


def without_values(graph: GraphModule) -> list[str]:
    """Nodes that lack their fake value."""
    return [node.name for node in graph.graph.nodes if node.op not in ("output",) and "val" not in node.meta]


class GraphMaker:
    """A graph written by hand: inputs x and y [3, 4, 5], one call a node, each with its fake value."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.tensors = [torch.randn(3, 4, 5, generator=generator) for _ in "xy"]
        self.graph_module = GraphModule(nn.Module(), torch.fx.Graph())
        mode = torch._subclasses.fake_tensor.FakeTensorMode()
        self.x, self.y = (self.graph_module.graph.placeholder(name) for name in "xy")
        for node, tensor in zip((self.x, self.y), self.tensors, strict=True):
            node.meta["val"] = mode.from_tensor(tensor)
        self.values = [self.x, self.y]

    def call(self, target, *arguments, **keywords):
        node = insert_call(self.graph_module, target, arguments, keywords, like=self.x)
        self.values.append(node)
        return node

    def module(self, *outputs) -> GraphModule:
        self.graph_module.graph.output(tuple(outputs))
        self.graph_module.recompile()
        return self.graph_module


@st.composite
def random_graphs(draw) -> GraphMaker:
    """Up to 12 ops of the kinds that clean-up looks at, on values of any shape with 60 elements."""
    maker = GraphMaker()
    for _ in range(draw(st.integers(1, 12))):
        value = draw(st.sampled_from(maker.values))
        shape = tuple(value.meta["val"].shape)
        last = shape[-1]
        twin = draw(st.sampled_from([other for other in maker.values if tuple(other.meta["val"].shape) == shape]))
        kind = draw(st.integers(0, 11))
        if kind == 0:
            maker.call(aten.reshape.default, value, draw(st.sampled_from([[3, 4, 5], [12, 5], [60], [2, 30], [3, -1, 5]])))
        elif kind == 1:
            maker.call(aten.permute.default, value, draw(st.permutations(range(len(shape)))))
        elif kind == 2:
            maker.call(aten.slice.Tensor, value, -1, 0, 2**63 - 1)
        elif kind == 3:
            maker.call(operator.getitem, maker.call(aten.split_with_sizes.default, value, [last], -1), 0)
            maker.values.pop(-2)
        elif kind == 4:
            maker.call(draw(st.sampled_from([aten.add.Tensor, aten.mul.Tensor])), value, twin)
        elif kind == 5:
            maker.call(
                draw(st.sampled_from([aten.add.Tensor, aten.mul.Tensor])), value, draw(st.sampled_from([0, 1, 1.0, 2.5]))
            )
        elif kind == 6:
            maker.call(aten.expand.default, value, list(shape))
        elif kind == 7:
            maker.call(aten._to_copy.default, value, dtype=torch.float32)
        elif kind == 8:
            maker.call(aten._softmax.default, value, -1, False)
        elif kind == 9:
            maker.call(aten.mean.dim, value, [-1], True)
            maker.call(aten.sub.Tensor, value, maker.values.pop())
        else:
            maker.call(
                draw(st.sampled_from([aten.clone.default, aten.relu.default, aten.neg.default, aten.tanh.default])), value
            )
    return maker


def stored_linears(graph, members):
    """(weights [K, N], biases [N] or None) of linear sites, as float32 arrays."""
    parameters = {node.name: graph.get_parameter(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    arrays = {name: parameter.detach().float().numpy() for name, parameter in parameters.items()}
    weights = [arrays[site.weight].T if site.transposed else arrays[site.weight] for site in members]
    return weights, [arrays[site.bias] if site.bias else None for site in members]
