"""Gradients by block are those of plain backpropagation, however many blocks there are."""

import pytest
import torch
from torch import nn

from szilard.cost_model.block_gradients import block_gradients, blocks_of, numbers, outputs_of
from szilard.rewriter.trace_torch import trace_module

VOCABULARY, WIDTH = 11, 8


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.value, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down, self.norm = nn.Linear(WIDTH, 16), nn.Linear(16, WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        scores = self.query(x) @ self.key(x).transpose(-1, -2) + mask
        x = x + self.out(scores.softmax(-1) @ self.value(x))
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Language(nn.Module):
    """ids [B, L] -> (logits, which read the embedding's own weight, and a hidden state): a weight of the first and the last block."""

    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(layers))

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.embed(ids)
        mask = torch.triu(torch.full((ids.shape[1], ids.shape[1]), -1e4), 1)
        hidden = x
        for number, layer in enumerate(self.layers):
            x = layer(x, mask)
            hidden = x if number == 0 else hidden
        return x @ self.embed.weight.T, hidden


def traced():
    ids = torch.arange(10).reshape(2, 5)
    return trace_module(Language().eval(), {"ids": ids})


def slope(number, outputs):
    generator = torch.Generator().manual_seed(number)
    return tuple(torch.randn(each.shape, generator=generator) for each in outputs)


SAMPLES = [(torch.arange(10).reshape(2, 5),), (torch.arange(7).reshape(1, 7) + 2,), (torch.full((3, 2), 4),)]


def linears(graph):
    return [node.name for node in graph.graph.nodes if "linear" in str(node.target)]


def walked(graph, blocks, **options):
    values, slopes, parameters, names = {}, {}, {}, []
    for inside, found in block_gradients(graph, SAMPLES, slope, linears(graph), blocks=blocks, **options):
        values.update(found.values), slopes.update(found.slopes), parameters.update(found.parameters)
        names.append(inside)
    return values, slopes, parameters, names


@pytest.mark.parametrize("blocks", [1, 2, 5, 1000])
def test_equal_those_of_plain_backpropagation(blocks):
    program = traced()
    values, slopes, parameters, names = walked(program.graph, blocks, parameters=True)
    assert len(names) >= min(blocks, 4)
    assert len([name for inside in names for name in inside]) == len(set().union(*names))
    module = Language().eval()
    seen: dict[str, list[torch.Tensor]] = {}
    modules = [m for layer in module.layers for m in layer.children() if isinstance(m, nn.Linear)]
    for each in modules:
        each.register_forward_hook(lambda m, i, out: (out.retain_grad(), seen.setdefault(m, []).append(out))[0])
    for number, sample in enumerate(SAMPLES):
        module.zero_grad()
        results = module(*sample)
        torch.autograd.backward(results, slope(number, results))
        for name, weight in module.named_parameters():
            torch.testing.assert_close(parameters[name][number], weight.grad, atol=1e-4, rtol=1e-4)
    assert set(parameters) == {name for name, _ in module.named_parameters()}
    got = [slopes[name] for name in linears(program.graph)]
    for mine in got:
        fits = [
            all(a.shape == b.grad.shape and torch.allclose(a, b.grad, atol=1e-4) for a, b in zip(mine, theirs, strict=True))
            for theirs in seen.values()
        ]
        assert sum(fits) == 1
    assert len(got) == len(seen) == 18
    for name, found in values.items():
        assert [v.shape for v in found] == [s.shape for s in slopes[name]]


@pytest.mark.parametrize("blocks", [1, 5])
def test_samples_without_gradients_have_the_same_values(blocks):
    program = traced()
    names = linears(program.graph)
    values, slopes, _, _ = walked(program.graph, blocks)
    some, fewer, _, _ = walked(program.graph, blocks, read=names[:3], differentiated=2)
    assert set(some) == set(names[:3])
    assert set(fewer) == set(names)
    for name in names[:3]:
        assert len(some[name]) == 3
        assert all(torch.equal(a, b) and not a.requires_grad for a, b in zip(some[name], values[name], strict=True))
    for name in names:
        assert len(fewer[name]) == 2
        assert all(torch.equal(a, b) for a, b in zip(fewer[name], slopes[name][:2], strict=True))


def test_the_model_is_left_as_it_was():
    program = traced()
    before = {name: each.clone() for name, each in program.graph.state_dict().items()}
    walked(program.graph, 3, parameters=True)
    for name, each in program.graph.state_dict().items():
        assert torch.equal(each, before[name])
    assert all(parameter.grad is None for parameter in program.graph.parameters())


def test_a_value_that_no_output_depends_on_has_a_slope_of_zero():
    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.a(x), torch.argmax(self.b(x), -1)

    program = trace_module(Dead().eval(), {"x": torch.randn(3, 4)})
    names = linears(program.graph)
    ((_, found),) = block_gradients(
        program.graph, [(torch.randn(3, 4),)], lambda n, outs: tuple(torch.ones(o.shape) for o in outs), names
    )
    totals = sorted(float(found.slopes[name][0].abs().sum()) for name in names)
    assert totals == [0.0, 12.0]


def test_blocks_are_cut_where_few_numbers_cross():
    graph = traced().graph
    pieces = blocks_of(graph, 4)
    assert len(pieces) == 4
    nodes = [node for piece in pieces for node in piece]
    assert nodes == blocks_of(graph, 1)[0]
    place = {node: number for number, piece in enumerate(pieces) for node in piece}
    for number in range(1, len(pieces)):
        crossing = {
            each for node in nodes if place[node] >= number for each in node.all_input_nodes if place.get(each, 99) < number
        }
        wide = {each.name for each in crossing if numbers(each) > 2 * 5 * WIDTH} - {each.name for each in outputs_of(graph)}
        assert not wide
