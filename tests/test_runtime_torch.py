"""FX graphs as functions of arrays, and the probe inside one: what an addend does is what a computation by hand says."""

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

from szilard.rewriter.runtime_torch import TorchProbe, as_array, as_tensors, named, torch_runner

from .fx_graphs import cleaned, traced

X = np.random.default_rng(2).standard_normal((4, 5)).astype(np.float32)


class TwoLayers(nn.Module):
    """The first layer's result is both an output and read by the rest."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(5, 7), nn.Linear(7, 3, bias=False)

    def forward(self, x):
        hidden = self.up(x)
        return {"hidden": hidden, "rest": (self.down(torch.relu(hidden)),)}


@pytest.fixture(scope="module")
def parts():
    """(graph, the value before the relu, weights W, b and V as [K, N])."""
    module = TwoLayers()
    graph = cleaned(traced(module, torch.from_numpy(X)))
    relu = next(node for node in graph.graph.nodes if "relu" in str(node.target))
    tensors = (module.up.weight.T, module.up.bias, module.down.weight.T)
    return graph, relu.args[0].name, [tensor.detach().numpy() for tensor in tensors]


def test_a_graph_runs_by_the_names_of_the_program(parts):
    graph, _, (w, b, v) = parts
    found = torch_runner(graph, ["features"], ["first", "second"])({"features": X})
    np.testing.assert_allclose(found["first"], X @ w + b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["second"], np.maximum(X @ w + b, 0) @ v, rtol=1e-5, atol=1e-6)


def test_an_addend_moves_what_lies_behind_it_and_zero_nothing(parts):
    graph, hidden, (w, b, v) = parts
    probe, shift = (
        TorchProbe(graph, ["x"], ["hidden", "y"]),
        np.random.default_rng(3).standard_normal((4, 7)).astype(np.float32),
    )
    plain = probe.run({"x": X}, {})
    zero = probe.run({"x": X}, {hidden: 0 * shift})
    moved = probe.run({"x": X}, {hidden: shift})
    for name in ("hidden", "y"):
        np.testing.assert_array_equal(zero[name], plain[name])
    np.testing.assert_allclose(moved["hidden"], X @ w + b + shift, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(moved["y"], np.maximum(X @ w + b + shift, 0) @ v, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(probe.run({"x": X}, {})["y"], plain["y"])


def test_values_are_captured_undisturbed_inputs_among_them(parts):
    graph, hidden, (w, b, _) = parts
    found = TorchProbe(graph, ["x"], ["hidden", "y"]).capture({"x": X}, ["x", hidden])
    assert set(found) == {"x", hidden}
    np.testing.assert_allclose(found[hidden], X @ w + b, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["x"], X)


def test_an_addend_takes_the_dtype_of_its_value():
    """A float32 one would not go through the second layer."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3)).bfloat16()
    graph = cleaned(traced(layers, torch.from_numpy(X).bfloat16()))
    probe, first = TorchProbe(graph, ["x"], ["y"]), next(n.name for n in graph.graph.nodes if "linear" in str(n.target))
    feeds = {"x": X.astype(ml_dtypes.bfloat16)}
    plain = probe.run(feeds, {})["y"]
    moved = probe.run(feeds, {first: np.ones((4, 7), np.float32)})["y"]
    assert plain.dtype == np.float32
    weight = layers[1].weight.detach().float().numpy()
    np.testing.assert_allclose(moved - plain, np.tile(weight.sum(1), (4, 1)), atol=0.03)


def test_inputs_are_copied_in_order():
    arrays = {"a": X, "b": np.arange(3)[::-1], "c": np.float32(2.5)}
    b, a, c = as_tensors(arrays, ["b", "a", "c"])
    a[0, 0] = 99.0
    assert X[0, 0] != 99.0
    assert b.tolist() == [2, 1, 0]
    assert c.shape == ()
    (half,) = as_tensors({"h": X.astype(ml_dtypes.bfloat16)}, ["h"])
    assert torch.equal(half, torch.from_numpy(X).bfloat16())


def test_results_of_any_container_have_names():
    results = {"p": torch.ones(2), "q": [torch.zeros(3).bfloat16(), 4]}
    found = named(results, ["a", "b", "c"])
    assert {name: (array.shape, str(array.dtype)) for name, array in found.items()} == {
        "a": ((2,), "float32"),
        "b": ((3,), "float32"),
        "c": ((), "int64"),
    }
    assert as_array(torch.ones(2, requires_grad=True)).tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="argument 2 is longer"):
        named(results, ["a", "b"])
