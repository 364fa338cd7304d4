"""The generated graph of the scaling benchmark is a model that runs, of exactly the size asked for."""

import numpy as np
import onnx_ir as ir
import pytest

from szilard.benchmarks import estimate_scaling
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


@pytest.mark.parametrize(
    ("slowest", "power", "said"),
    [(14.9, 1.0, None), (15.1, 1.0, "over the limit of 15 s"), (14.9, 1.2, "2.30 times as long")],
)
def test_it_fails_over_either_limit_by_the_fewest_seconds_of_each_size(monkeypatch, capsys, slowest, power, said):
    turn = iter(range(100))

    def timed(nodes):
        late = 40.0 if next(turn) % 4 else 0.0  # most turns are disturbed
        return slowest * (nodes / 50_000) ** power + late, 1.0

    monkeypatch.setattr(estimate_scaling, "seconds", timed)
    monkeypatch.setattr(estimate_scaling, "TURNS", 5)
    if said is None:
        estimate_scaling.main()
        assert "2.00 x, 2.00 x" in capsys.readouterr().out
    else:
        with pytest.raises(SystemExit, match=said):
            estimate_scaling.main()
