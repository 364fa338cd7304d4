"""Traces compute what the module computes, at more sizes than one, or say why not. Covers flat_module.py and check_trace.py."""

import math
from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from szilard.cost_model.errors import InputError
from szilard.rewriter.check_trace import check_finite, grown
from szilard.rewriter.flat_module import distinct, flat_forward, named_tensors, split_sample
from szilard.rewriter.trace_torch import trace_exported, trace_module

torch.set_num_threads(1)


class Encoder(nn.Module):
    """Attention over embedded tokens, with a mask."""

    def __init__(self, width=8, words=11):
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.query, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(0.5)

    def forward(self, ids, mask=None, *, scale: float = 1.0):
        x = self.embed(ids)
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in self.query(x).chunk(3, -1))
        keep = None if mask is None else mask[:, None, None, :].bool()
        y = F.scaled_dot_product_attention(q, k, v, keep).transpose(1, 2).flatten(2)
        return {"hidden": self.norm(x + self.dropout(self.out(y))) * scale, "nothing": None, "pooled": y.mean(1)}


def sample(batch, length):
    return {"ids": torch.randint(0, 11, (batch, length)), "mask": torch.ones(batch, length, dtype=torch.long)}


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    module = Encoder().train()
    return module, trace_module(module, sample(1, 5))


def kinds(program):
    return [str(node.target) for node in program.graph.graph.nodes if node.op == "call_function"]


def test_both_axes_are_free_and_a_batch_of_one_does_not_fix_them(encoder):
    module, program = encoder
    free = {0: "batch", 1: "sequence"}
    assert program.dynamic == {"ids": free, "mask": free}
    assert program.notes == ()
    module.eval()
    for batch, length in ((1, 5), (4, 9), (2, 1)):
        given = sample(batch, length)
        given["mask"][:, length // 2 + 1 :] = 0
        expected = module(**given)
        hidden, pooled = program.graph(given["ids"], given["mask"])
        torch.testing.assert_close(hidden, expected["hidden"])
        torch.testing.assert_close(pooled, expected["pooled"])
    module.train()


def test_names_samples_and_layers_kept_whole(encoder):
    _, program = encoder
    assert (program.inputs, program.outputs) == (("ids", "mask"), ("hidden", "pooled"))
    assert {name: array.shape for name, array in program.sample.items()} == {"ids": (1, 5), "mask": (1, 5)}
    assert program.runtime == "torch"
    targets = kinds(program)
    assert targets.count("aten.scaled_dot_product_attention.default") == 1
    assert targets.count("aten.linear.default") == 2
    assert not [target for target in targets if "dropout" in target or "_assert" in target or "guard" in target]


def test_the_module_is_left_as_it_was(encoder):
    module, program = encoder
    assert module.training
    assert module.dropout.training
    assert "forward" not in vars(module)
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert not program.graph.training
    assert program.graph.embed.weight is module.embed.weight


def test_constants_are_baked_in_and_tuples_are_taken_by_position(encoder):
    module, _ = encoder
    given = sample(2, 3)
    program = trace_module(module, {**given, "scale": 3.0}, dynamic={})
    plain = trace_module(module, tuple(given.values()), dynamic={})
    assert program.dynamic == plain.dynamic == {}
    hidden, scaled = plain.graph(*given.values())[0], program.graph(*given.values())[0]
    torch.testing.assert_close(scaled, hidden * 3)


class Fixed(nn.Module):
    """A Python loop over the rows: export fixes their number and says nothing."""

    def forward(self, x, y):
        return sum(x[row] * row for row in range(x.shape[0])) + y.sum()


def test_an_axis_that_export_fixes_is_reported():
    program = trace_module(Fixed(), (torch.randn(3, 4), torch.randn(5)), {"x": {0: "rows"}, "y": {0: "others"}})
    assert program.dynamic.keys() == {"y"}
    (note,) = program.notes
    assert "Axis 0 (rows) of input 'x'" in note
    assert "fixed it at 3" in note


class ByLength(nn.Module):
    """Decides by the length in Python: a trace at one length is wrong at another."""

    def forward(self, ids):
        return ids.float() * (2.0 if ids.shape[1] > 6 else 3.0)


def test_a_trace_that_holds_at_one_length_only_is_found_out():
    program = trace_module(ByLength(), (torch.randint(0, 9, (2, 6)),))
    assert 1 not in program.dynamic.get("ids", {})
    assert any("sequence" in note for note in program.notes)


def test_a_recurrent_layer_is_kept_whole():
    program = trace_module(nn.LSTM(3, 4, batch_first=True), (torch.randn(2, 5, 3),))
    assert program.outputs == ("output_0", "output_1_0", "output_1_1")
    assert kinds(program).count("aten.lstm.input") == 1


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


class Raises(nn.Module):
    def forward(self, x):
        raise KeyError("wheel")


class Branches(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


class Silent(nn.Module):
    def forward(self, x):
        return None


class Weighted(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.inner.weight.data[1, 2] = value
        self.register_buffer("mask", torch.tensor([0.0, -math.inf, 0.0]))

    def forward(self, x):
        return (self.inner(x) + self.mask).softmax(-1)


@pytest.mark.parametrize(
    ("module", "given", "words"),
    [
        (Noisy(), (torch.randn(2, 3),), "computes other numbers.*random"),
        (Raises(), (torch.randn(2, 3),), "KeyError: 'wheel'"),
        (Weighted(math.nan), (torch.randn(2, 3),), "'inner.weight'.*NaN"),
        (Weighted(math.inf), (torch.randn(2, 3),), "'inner.weight'.*infinity"),
        (nn.Linear(3, 3), {"x": torch.randn(2, 3)}, r"Linear.forward, which takes \(input\)"),
        (nn.Linear(3, 3), ([torch.randn(2, 3)],), "'input' of Linear is a list"),
        (nn.Linear(3, 3), (), "no tensor"),
        (nn.Linear(3, 3), 5, "tuple or a dict"),
        (nn.Linear(3, 3), (torch.randn(2, 4),), "Linear.*RuntimeError"),
        (Branches(), (torch.randn(2, 3),), "cannot be traced: GuardOnDataDependentSymNode"),
        (Silent(), (torch.randn(2, 3),), "Silent returns no tensor"),
    ],
)
def test_faults_are_sentences_and_nothing_else_is_printed(capfd, module, given, words):
    with pytest.raises(InputError, match=words):
        trace_module(module, given)
    assert capfd.readouterr() == ("", "")


def test_infinities_in_a_mask_are_meant():
    assert trace_module(Weighted(0.5), (torch.randn(2, 3),)).outputs == ("output",)
    with pytest.raises(InputError, match="'m'"):
        check_finite({}, {"m": torch.tensor([math.nan])}, "it")


@pytest.mark.parametrize(("name", "axis", "words"), [("z", 0, "input 'z'.*inputs are: x"), ("x", 2, "'x' has 2 axes")])
def test_axes_that_do_not_exist_are_named(name, axis, words):
    with pytest.raises(InputError, match=words):
        trace_module(Noisy(), {"x": torch.randn(2, 3)}, {name: {axis: "n"}})


def test_an_exported_program_is_traced_with_its_own_axes():
    module = Encoder().eval()
    given = sample(2, 5)
    auto = dict.fromkeys((0, 1), torch.export.Dim.AUTO)
    exported = torch.export.export(module, (given["ids"],), {"mask": given["mask"]}, dynamic_shapes={"ids": auto, "mask": auto})
    program = trace_exported(exported)
    assert (program.inputs, program.outputs) == (("ids", "mask"), ("hidden", "pooled"))
    assert set(program.dynamic["ids"]) == {0, 1}
    larger = sample(3, 7)
    torch.testing.assert_close(program.graph(*larger.values())[0], module(**larger)["hidden"])
    exported._example_inputs = None
    with pytest.raises(InputError, match="no example inputs"):
        trace_exported(exported)


def test_outputs_of_an_exported_program_without_names_are_counted():
    class Two(nn.Module):
        def forward(self, x):
            return x + 1, [x * 2, x * 3]

    program = trace_exported(torch.export.export(Two(), (torch.randn(2, 3),)))
    assert program.outputs == ("output_0", "output_1_0", "output_1_1")


@dataclass
class Result:
    logits: torch.Tensor
    states: tuple


Pair = namedtuple("Pair", "left right")


class Layer:
    def __init__(self):
        self.keys, self.values = torch.ones(1), torch.ones(2)


class Cache:
    def __init__(self):
        self.layers = [Layer(), Layer()]


def test_results_are_flattened_under_names():
    t = torch.ones(1)
    assert [name for name, _ in named_tensors(t)] == ["output"]
    assert [name for name, _ in named_tensors((t, None, (t,)))] == ["output_0", "output_2_0"]
    result = Result(t, (t, t))
    assert [name for name, _ in named_tensors(result)] == ["logits", "states_0", "states_1"]
    assert [name for name, _ in named_tensors({"a": Pair(t, t), "b": 3, "c": [t]})] == ["a_left", "a_right", "c_0"]
    found = dict(named_tensors({"past": Cache()}))
    assert list(found) == ["past_0_key", "past_0_value", "past_1_key", "past_1_value"]
    assert found["past_1_value"].shape == (2,)


def test_arguments_are_split_by_kind():
    class Odd(nn.Module):
        def forward(self, a, *rest, flag=False, **more):
            return a

    module = Odd()
    tensors, constants = split_sample(module, {"a": np.ones(2), "flag": True, "b": torch.ones(3), "c": None})
    assert (list(tensors), constants) == (["a", "b"], {"flag": True})
    assert list(split_sample(module, (torch.ones(1), torch.ones(2)))[0]) == ["a", "rest_0"]


def test_a_forward_of_its_own_comes_back():
    module = nn.Linear(2, 2)
    module.forward = original = lambda input: {"y": input * 2}
    with flat_forward(module, ("input",), {}) as names:
        assert torch.equal(module(torch.ones(1))[0], torch.full((1,), 2.0))
        assert names == ["y"]
    assert module.forward is original


def test_growing_goes_round_its_own_content():
    tensor = torch.arange(6).reshape(2, 3)
    assert grown(tensor, {1: "s"}, {"s": 2}).tolist() == [[0, 1, 2, 0, 1], [3, 4, 5, 3, 4]]
    assert grown(tensor[:1], {0: "b"}, {}, least=2).tolist() == [[0, 1, 2], [0, 1, 2]]
    assert grown(tensor, {}, {"s": 2}) is tensor


def test_output_names_differ_from_each_other_and_from_inputs():
    assert distinct(["state", "y", "y", "y_output"], ["x", "state"]) == ("state_output", "y", "y_output", "y_output_output")
