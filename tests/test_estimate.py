"""Estimates: totals are the weighted sums of their ops, and what has no price is named, or refused when asked."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import szilard
from szilard.cost_model.cost import total_cost
from szilard.cost_model.device import load_device
from szilard.cost_model.errors import InputError
from szilard.cost_model.plan import Phase, Workload
from szilard.cost_model.price import price_net
from szilard.rewriter.backend_onnx import OnnxBackend
from szilard.rewriter.estimate import estimate
from szilard.rewriter.prediction import predict

from .onnx_texts import model, normal
from .tiny_models import Block, block_model

SUMMED = ("joules", "seconds", "flops", "bytes", "landauer_joules")
SMALL, LARGE = {"x": (3, 5, 48)}, {"x": (37, 5, 48)}
ODD = "(float[N,5] x) => (float[N,5] y, float[N,5] z) { h = Relu(x) y = Hardmax(h) z = Shrink(y) }"


def of(*phases: tuple[dict, float], **options):
    workload = Workload(tuple(Phase(str(number), shapes, weight) for number, (shapes, weight) in enumerate(phases)))
    return estimate(block_model(), workload=workload, **options)


@pytest.mark.parametrize("target", ["cpu", "h200"])
def test_totals_are_the_sums_of_the_ops(target):
    found = of((SMALL, 0.3), (LARGE, 0.7), target=target)
    assert {op["id"] for op in found["ops"]} == {node.name for node in block_model().graph}
    for key in SUMMED:
        assert found["total"][key] == pytest.approx(sum(op[key] for op in found["ops"]), rel=1e-9)
        assert found["total"][key] > 0
    assert sum(op["share"] for op in found["ops"]) == pytest.approx(1.0)
    assert (found["at_least"], found["unpriced"], found["target"]) == (False, [], target)


def test_phases_count_by_their_weights():
    """Weights 1 and 3 are a quarter and three quarters, op by op."""
    small, large, mixed = of((SMALL, 1.0)), of((LARGE, 1.0)), of((SMALL, 1.0), (LARGE, 3.0))
    assert [phase["weight"] for phase in mixed["workload"]] == [0.25, 0.75]
    assert mixed["workload"][1]["shapes"] == {"x": [37, 5, 48]}
    for key in (*SUMMED, "io_bytes"):
        assert mixed["total"][key] == pytest.approx(0.25 * small["total"][key] + 0.75 * large["total"][key], rel=1e-9)
        for a, b, both in zip(small["ops"], large["ops"], mixed["ops"], strict=True):
            assert a["id"] == b["id"] == both["id"]
            assert both[key] == pytest.approx(0.25 * a[key] + 0.75 * b[key], rel=1e-9)


def test_prices_are_those_of_the_cost_model():
    device = load_device("h200").used_by("onnxruntime")
    priced = price_net(OnnxBackend().view(block_model(), SMALL), device)
    found = of((SMALL, 1.0), target="h200")
    assert found["total"]["joules"] == pytest.approx(total_cost(priced.ops.values()).joules, rel=1e-12)
    assert found["total"]["io_bytes"] == priced.total.io_bytes
    assert found["total"]["label"] == "roofline"
    row = next(op for op in found["ops"] if op["id"] == "up_matmul")
    assert (row["kind"], row["target"], row["label"]) == ("matmul", "MatMul", "roofline")
    assert row["flops"] == 2 * 15 * 48 * 96


@pytest.mark.parametrize("labels", [("roofline", "table"), ("table", "roofline")])
def test_a_sum_has_the_label_of_its_least_certain_phase(monkeypatch, labels):
    left = list(labels)

    def predicted(*words, **named):
        found, label = predict(*words, **named), left.pop(0)
        ops = {name: replace(cost, label=label) for name, cost in found.ops.items()}
        return replace(found, ops=ops, total=replace(found.total, label=label))

    monkeypatch.setattr("szilard.rewriter.as_run.predict", predicted)
    found = of((SMALL, 1.0), (LARGE, 1.0))
    assert found["total"]["label"] == "roofline"
    assert [phase["total"]["label"] for phase in found["phases"]] == list(labels)
    assert {op["label"] for op in found["ops"]} == {"roofline"}


def test_joules_say_on_what_they_rest(tmp_path):
    found = of((SMALL, 0.3), (LARGE, 0.7), target="cpu")
    assert found["provenance"] == {"prior": pytest.approx(1.0)}
    device = load_device("cpu")
    data = device.to_json()
    data["coefficients"]["flop.float32"]["provenance"] = "measured"
    data["coefficients"]["byte.cache"]["provenance"] = "measured"
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps(data))
    found = of((SMALL, 1.0), target=mine)
    total = found["total"]
    measured = device.value("flop.float32") * total["flops"] + device.value("byte.cache") * total["cache_bytes"]
    assert found["provenance"]["measured"] == pytest.approx(measured / total["joules"])
    assert sum(found["provenance"].values()) == pytest.approx(1.0)


def test_each_level_moves_what_the_tiles_ask_for():
    found = of((SMALL, 1.0), target="h200")["total"]
    assert found["cache_bytes"] == found["bytes"]  # all of it fits a core
    assert 0 < found["memory_bytes"] < found["bytes"]  # weights only


def test_what_has_no_price_is_named_and_priced_at_its_bytes():
    found = estimate(model(ODD), shapes={"x": (7, 5)})
    assert found["at_least"]
    assert found["unpriced"] == ["n1", "n2"]
    row = next(op for op in found["ops"] if op["id"] == "n1")
    assert row["kind"] == "other:Hardmax"
    assert row["bytes"] == 2 * 7 * 5 * 4
    assert row["joules"] > 0


def test_strict_refuses_what_has_no_price():
    with pytest.raises(InputError, match=r"^2 operators have no price \(n1, n2\); drop --strict") as caught:
        estimate(model(ODD), strict=True)
    assert caught.value.exit_code == 2
    many = "(float[N,5] x) => (float[N,5] h7) { h0 = Relu(x) " + " ".join(f"h{i + 1} = Hardmax(h{i})" for i in range(7)) + " }"
    with pytest.raises(InputError, match=r"7 operators have no price \(n1, n2, n3, n4, n5 \.\.\.\)"):
        estimate(model(many), strict=True)
    assert estimate(block_model(), strict=True)["unpriced"] == []


def test_a_module_costs_the_flops_of_its_onnx_form():
    sample = torch.from_numpy(normal(0, 3, 5, 48))
    said = []
    module = szilard.estimate(Block(), {"x": sample}, progress=said.append)
    onnx = of((SMALL, 1.0))
    assert said == ["pricing 3x5x48"]
    assert sum(op["flops"] for op in module["ops"] if op["kind"] == "matmul") == pytest.approx(4 * 15 * 48 * 96, rel=0.05)
    assert module["total"]["flops"] == pytest.approx(onnx["total"]["flops"], rel=0.05)


def test_nothing_is_run_or_changed(monkeypatch):
    """A device that need not be here, and weights that stay as they are."""
    graph = block_model()
    before = {name: np.array(value.const_value.numpy()) for name, value in graph.graph.initializers.items()}
    monkeypatch.setattr(OnnxBackend, "runner", None)
    estimate(graph, target="a100")
    for name, value in graph.graph.initializers.items():
        np.testing.assert_array_equal(value.const_value.numpy(), before[name])


def test_an_unknown_target_is_a_sentence():
    with pytest.raises(InputError, match="There is no device 'h900'"):
        estimate(block_model(), target="h900")
