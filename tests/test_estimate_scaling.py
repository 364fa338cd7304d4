"""The generated graph of the scaling benchmark is a model that runs, of exactly the size asked for."""

import numpy as np
import onnx_ir as ir
import pytest

from szilard.benchmarks.estimate_scaling import LINK, WIDTH, chain, seconds

from .onnx_graphs import run

STEPS = {"MatMul": np.matmul, "Add": np.add, "Mul": np.multiply}


@pytest.mark.parametrize("nodes", [1, 7, 25])
def test_a_chain_runs(nodes):
    model = chain(nodes)
    assert model.graph.num_nodes() == nodes
    x = np.random.default_rng(0).standard_normal((3, WIDTH)).astype(np.float32)
    (result,) = run(model, {"x": x})
    expected = x
    weights = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    for number in range(nodes):
        weight = weights.get(f"weight_{number}")
        operator = LINK[number % len(LINK)]
        expected = 1 / (1 + np.exp(-expected)) if operator == "Sigmoid" else STEPS[operator](expected, weight)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_it_is_estimated_from_its_file():
    whole, part = seconds(40)
    assert whole > 0
    assert part > 0
    assert ir.to_proto(chain(5)).ByteSize() < ir.to_proto(chain(40)).ByteSize()
