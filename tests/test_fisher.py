"""Fisher information against what it is defined as: exact sums over outputs of small models, and the errors that changes really make."""

import numpy as np
import pytest
import torch
from torch import nn

from szilard.cost_model.fisher import (
    OwnOutputs,
    blocks_within,
    change_gradients,
    fisher,
    of_loss,
    squared_change,
    weight_error,
)
from szilard.rewriter.trace_torch import trace_module

from .test_block_gradients import Language

ROWS, WIDE, OUT = 3, 5, 4


class Linear(nn.Module):
    """y = W x + b: Fisher information of a Gaussian around y is |x|^2 for each row of W, and 1 for each b, times the rows of x."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.only = nn.Linear(WIDE, OUT)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.only(x)


def program(module, x):
    return trace_module(module.eval(), {"x": x})


def draws(count: int) -> torch.Tensor:
    return torch.randn(ROWS, WIDE, generator=torch.Generator().manual_seed(7)).repeat(count, 1, 1)


def test_a_linear_gaussian_model_has_the_fisher_information_that_it_must():
    x = draws(1)[0]
    graph = program(Linear(), x).graph
    exact_weight = x.square().sum(0).expand(OUT, WIDE)
    found = [fisher(graph, [(x,)] * 30, OwnOutputs(random=number), diagonal=True) for number in range(10)]
    diagonal = torch.stack([each.diagonal["only.weight"] for each in found]).mean(0)
    torch.testing.assert_close(diagonal, exact_weight, rtol=0.6, atol=0)
    traces = [each.trace for each in found]
    exact = float(exact_weight.sum()) + ROWS * OUT
    # A mean of 300 draws: within five of its own standard errors.
    assert abs(np.mean(traces) - exact) < 5 * np.std(traces) / np.sqrt(len(traces))
    assert found[0].trace == pytest.approx(sum(float(each.sum()) for each in found[0].diagonal.values()), rel=1e-5)


class Classes(nn.Module):
    """Logits of one row: its Fisher information is sum_k p_k (e_k - p)(e_k - p)^T, of which the diagonal of W is x^2 p (1 - p)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.only = nn.Linear(WIDE, OUT, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.only(x)


def test_a_softmax_has_the_fisher_information_that_it_must():
    x = draws(1)[0, :1]
    module = Classes().eval()
    graph = program(module, x).graph
    with torch.no_grad():
        likely = module(x).softmax(-1)[0]
    exact = torch.outer(likely * (1 - likely), x[0].square())
    found = fisher(graph, [(x,)] * 500, OwnOutputs("softmax"), diagonal=True)
    torch.testing.assert_close(found.diagonal["only.weight"], exact, rtol=0.6, atol=0)
    assert found.trace == pytest.approx(float(exact.sum()), rel=0.2)
    # With labels drawn from the model itself the gradients of their loss are the same.
    labels = torch.multinomial(likely, 500, replacement=True, generator=torch.Generator().manual_seed(5))
    seed = of_loss(lambda number, outputs: nn.functional.cross_entropy(outputs[0], labels[number : number + 1]))
    assert fisher(graph, [(x,)] * 500, seed).trace == pytest.approx(float(exact.sum()), rel=0.2)


def test_a_softmax_score_is_twice_the_divergence_of_a_small_change():
    x = draws(1)[0]
    module = Classes().eval()
    graph = program(module, x).graph
    change = 0.02 * torch.randn(ROWS, OUT, generator=torch.Generator().manual_seed(2))
    (name,) = [node.name for node in graph.graph.nodes if "linear" in str(node.target)]
    seed, rounds = OwnOutputs("softmax"), 2000
    ((_, found),) = change_gradients(graph, [(x.repeat(rounds, 1),)], seed, [name])
    total = squared_change(found.slopes[name][0], change.repeat(rounds, 1))
    with torch.no_grad():
        first, second = module(x).log_softmax(-1), (module(x) + change).log_softmax(-1)
        divergence = float((first.exp() * (first - second)).sum(-1).mean())
    assert seed.rows == rounds * ROWS
    assert total / seed.rows == pytest.approx(2 * divergence, rel=0.1)


def test_a_gaussian_score_is_the_relative_squared_error_of_the_outputs():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(WIDE, 16), nn.Tanh(), nn.Linear(16, OUT)).eval()
    x = torch.randn(400, WIDE)
    graph = trace_module(module, {"input": x[:3]}).graph
    name = next(node.name for node in graph.graph.nodes if "linear" in str(node.target))
    change = 0.01 * torch.randn(400, 16)
    seed = OwnOutputs()
    ((_, found),) = change_gradients(graph, [(x,)], seed, [name])
    with torch.no_grad():
        before = module(x)
        after = module[2](torch.tanh(module[0](x) + change))
    real = float((after - before).square().sum() / before.square().sum())
    assert squared_change(found.slopes[name][0], change) / seed.squares == pytest.approx(real, rel=0.2)
    assert squared_change(found.slopes[name][0], change) == squared_change(found.slopes[name][0], change)


def test_streaming_finds_what_one_block_finds():
    ids = torch.arange(10).reshape(2, 5)
    graph = trace_module(Language().eval(), {"ids": ids}).graph
    samples = [(ids,), (ids[:, :3],)]
    whole = fisher(graph, samples, OwnOutputs("softmax", ignored=frozenset([1])), diagonal=True)
    assert blocks_within(graph, samples, None) == 1
    assert blocks_within(graph, samples, 1e12) == 1
    assert blocks_within(graph, samples, 3000) > 4
    streamed = fisher(graph, samples, OwnOutputs("softmax", ignored=frozenset([1])), memory=3000, diagonal=True)
    assert streamed.parameters.keys() == whole.parameters.keys()
    for name, trace in whole.parameters.items():
        assert streamed.parameters[name] == pytest.approx(trace, rel=1e-3, abs=1e-9)
    assert whole.trace > 0


def test_own_outputs_are_the_same_on_every_run_and_leave_out_what_does_not_count():
    outputs = (torch.randn(2, 3), torch.arange(4), torch.randn(2, 3))
    seed = OwnOutputs(ignored=frozenset([2]))
    first, second, other = seed(0, outputs), OwnOutputs(ignored=frozenset([2]))(0, outputs), seed(1, outputs)
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[0], other[0])
    assert not first[1].any()
    assert not first[2].any()
    assert seed.squares == pytest.approx(2 * float(outputs[0].square().sum()), rel=1e-6)
    assert seed.rows == 4
    seed(1, outputs)
    assert seed.rows == 4


def test_without_data_the_error_of_the_weight_is_what_white_inputs_would_show():
    weight = torch.randn(300, 40, generator=torch.Generator().manual_seed(3))
    rounded = torch.round(weight * 4) / 4
    x = torch.randn(2000, 300, generator=torch.Generator().manual_seed(4))
    real = float((x @ (weight - rounded)).square().sum() / (x @ weight).square().sum())
    assert weight_error(weight, rounded) == pytest.approx(real, rel=0.05)
    assert weight_error(torch.zeros(2, 2), torch.zeros(2, 2)) == 0.0
