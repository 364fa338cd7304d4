"""Times of FX nodes: those that call something, each in every call, by the host's clock or by events of a card."""

import pytest
import torch
from torch.fx import Graph, GraphModule, symbolic_trace

from szilard.rewriter import op_times_torch
from szilard.rewriter.op_times_torch import HOW_CUDA, torch_op_seconds


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(300, 300)
        self.scale = torch.nn.Parameter(torch.ones(300))

    def forward(self, x):
        return (torch.nn.functional.softmax(self.layer(x), -1) * self.scale).neg()


X = torch.randn(200, 300, generator=torch.Generator().manual_seed(0))


def test_each_call_of_an_operator_method_or_module_has_a_time():
    graph = symbolic_trace(Model())
    names = {node.name for node in graph.graph.nodes if node.op.startswith("call_")}
    found = torch_op_seconds(graph, [X], 4)
    assert set(found.samples) == names == {"layer", "softmax", "mul", "neg"}
    assert {len(each) for each in found.samples.values()} == {4}
    assert all(second > 0 for each in found.samples.values() for second in each)
    assert found.added == 0.0


def test_the_clock_runs_while_the_operator_does_and_not_in_between(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(op_times_torch.time, "perf_counter", lambda: now[0])

    def work(x):
        now[0] += 0.5
        return x

    graph = Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_function(work, (graph.call_function(work, (x,)),)))
    found = torch_op_seconds(GraphModule({}, graph), [X], 3)
    assert found.samples == {"work": (0.5,) * 3, "work_1": (0.5,) * 3}


def test_a_card_is_asked_for_the_time_between_two_events(monkeypatch):
    waited = []

    class Event:
        marks = 0

        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            Event.marks += 1
            self.mark = Event.marks

        def elapsed_time(self, other):
            assert waited
            return 2.0 * (other.mark - self.mark)  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(True))
    monkeypatch.setattr(op_times_torch, "_on_card", lambda inputs: True)
    found = torch_op_seconds(symbolic_trace(Model()), [X], 3)
    assert found.how == HOW_CUDA
    assert all(each == pytest.approx((2e-3,) * 3) for each in found.samples.values())
    assert len(waited) == 5
