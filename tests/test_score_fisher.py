"""Scores by gradients against those by runs of the model, and the same however little memory there is."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from szilard.kernels.low_rank import factors
from szilard.passes.find import find
from szilard.rewriter import score_fisher as module
from szilard.rewriter import weight_columns
from szilard.rewriter.backend import groups_of
from szilard.rewriter.backend_torch import TorchBackend
from szilard.rewriter.score import score_linears
from szilard.rewriter.score_fisher import score_by_gradients
from szilard.rewriter.trace_torch import trace_module

FORMATS = ("int4_weight", "int8_dynamic", "int8_static", "int8_weight")
WIDTH = 24


class Stack(nn.Module):
    """Blocks x + down(relu(up(x))) behind a pair of linears that read one input."""

    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.ups = nn.ModuleList(nn.Linear(WIDTH, 40) for _ in range(layers))
        self.downs = nn.ModuleList(nn.Linear(40, WIDTH) for _ in range(layers))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.left(x) * torch.sigmoid(self.right(x))
        for up, down in zip(self.ups, self.downs, strict=True):
            x = x + down(torch.relu(up(x)))
        return self.norm(x)


class Case:
    def __init__(self):
        data = [np.random.default_rng(seed).standard_normal((40, 7, WIDTH)).astype(np.float32) for seed in range(2)]
        program = trace_module(Stack().eval(), {"x": torch.from_numpy(data[0])})
        self.backend, self.graph = TorchBackend(program), program.graph
        self.backend.clean_up(self.graph)
        self.inputs, self.outputs = program.inputs, program.outputs
        self.samples = [{program.inputs[0]: each} for each in data]
        self.net = self.backend.view(self.graph, {program.inputs[0]: data[0].shape})
        self.groups = [g for g in groups_of(find(self.net).sites) if g.kind == "linear"]

    def by_gradients(self, wanted=None, **options):
        wanted = dict.fromkeys(self.groups, FORMATS) if wanted is None else wanted
        return score_by_gradients(wanted, self.graph, self.net, self.inputs, self.outputs, self.samples, **options)

    def by_runs(self):
        with self.backend.probe(self.graph, [], []) as probe:
            return score_linears(dict.fromkeys(self.groups, FORMATS), self.net, probe, self.samples)


@pytest.fixture(scope="module")
def case():
    return Case()


def test_are_the_errors_that_runs_of_the_model_show(case):
    guessed, real = case.by_gradients(), case.by_runs()
    assert guessed.keys() == real.keys()
    assert len(case.groups) == 7
    ratios = {key: guessed[key].error / real[key].error for key in real}
    assert all(0.5 < ratio < 2 for ratio in ratios.values()), ratios
    keys = list(real)
    assert spearmanr([guessed[k].error for k in keys], [real[k].error for k in keys]).statistic > 0.97
    assert all(score.remembered and not score.prepared for score in guessed.values())


def test_are_the_same_in_any_memory(case):
    whole = case.by_gradients()
    for memory in (3e5, 1e5):
        streamed = case.by_gradients(memory=memory)
        assert {k: s.error for k, s in streamed.items()} == pytest.approx({k: s.error for k, s in whole.items()}, rel=1e-4)


def test_a_large_weight_is_rounded_some_columns_at_a_time(case, monkeypatch):
    column_formats = dict.fromkeys(case.groups, ("int8_dynamic",))
    whole = case.by_gradients(column_formats)
    monkeypatch.setattr(weight_columns, "NUMBERS_AT_ONCE", 100)
    monkeypatch.setattr(module, "NUMBERS_AT_ONCE", 100)
    pieces = case.by_gradients(column_formats)
    assert {k: s.error for k, s in pieces.items()} == pytest.approx({k: s.error for k, s in whole.items()}, rel=1e-4)


def test_what_is_known_is_not_looked_at_again(case):
    said, kept = [], {}
    half = dict.fromkeys(case.groups[:3], FORMATS)
    known = case.by_gradients(half, keep=kept.__setitem__)
    assert kept == known
    again = case.by_gradients(known=known, progress=said.append, keep=kept.__setitem__)
    assert len(said) == len(FORMATS) * (len(case.groups) - 3)
    fresh = case.by_gradients()
    assert kept.keys() == again.keys() == fresh.keys()
    assert {k: s.error for k, s in again.items()} == {k: s.error for k, s in fresh.items()}
    assert case.by_gradients(half, known=known) == known


def test_ranks_are_looked_at_as_well_and_too_few_inputs_refuse_them(case, monkeypatch):
    monkeypatch.setattr(factors, "RANK_STEP", 4)
    wanted = dict.fromkeys(case.groups, ("low_rank_half",))
    guessed = case.by_gradients(wanted)
    with case.backend.probe(case.graph, [], []) as probe:
        real = score_linears(wanted, case.net, probe, case.samples)
    assert len(guessed) == len(real) == 7
    assert all(0.2 < guessed[key].error / real[key].error < 5 for key in real)
    assert all(score.structure and score.prepared for score in real.values())
    monkeypatch.setattr(factors, "ROWS_PER_RANK", 1000)
    kept = []
    refused = case.by_gradients(wanted, keep=lambda key, score: kept.append(key))
    assert all("too few to tell a rank" in score.refusal for score in refused.values())
    assert kept == []


class Token(nn.Module):
    """The place of the largest number: an output without gradients."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.only = nn.Linear(WIDTH, 30)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.only(x).argmax(-1)


def test_without_numbers_at_the_end_the_weights_themselves_say_how_far_they_moved():
    x = np.random.default_rng(0).standard_normal((9, WIDTH)).astype(np.float32)
    program = trace_module(Token().eval(), {"x": torch.from_numpy(x)})
    net = TorchBackend(program).view(program.graph, {program.inputs[0]: x.shape})
    groups = [g for g in groups_of(find(net).sites) if g.kind == "linear"]
    found = score_by_gradients(
        dict.fromkeys(groups, FORMATS), program.graph, net, program.inputs, program.outputs, [{program.inputs[0]: x}]
    )
    errors = {name: found[groups[0].id, name].error for name in FORMATS}
    assert 0 < errors["int8_weight"] < errors["int4_weight"] / 20 < 0.05
    assert 0 < errors["int8_static"] < 1e-3


def test_what_float16_cannot_hold_is_refused_by_gradients_too(case):
    loud = Case()
    loud.samples = [{name: array * np.float32(1e5) for name, array in sample.items()} for sample in loud.samples]
    first = next(group for group in loud.groups if group.linears[0].x == loud.inputs[0])
    refused = loud.by_gradients({first: ("float16", "int8_weight")})
    assert refused[first.id, "float16"].refusal.startswith("its inputs reach")
    assert refused[first.id, "int8_weight"].refusal == ""
    assert case.by_gradients({case.groups[0]: ("float16",)})[case.groups[0].id, "float16"].refusal == ""
