"""Whole rewrites of a small block: what is chosen, what is refused, what joules decide, what lies on disk. Covers optimise.py,
apply.py, check.py, hold.py, emit.py, report_data.py, refusals.py, backend.py and candidates.py too."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import szilard
from szilard.cost_model.device import load_device
from szilard.cost_model.errors import InputError
from szilard.rewriter.calibration_data import relative_error

from .tiny_models import Block, block_model, samples, set_clock

FAST_INT8 = {"leave": 1e-3, "int8_static": 3e-4, "int8_dynamic": 4e-4, "int8_weight": 9e-4, "int4_weight": 9.5e-4}


def actions(result, runtime: str = "onnxruntime") -> dict[str, str]:
    return {c.site: c.action for c in result.plan.choices if c.runtime == runtime}


def profile(tmp_path, **values):
    device = load_device("cpu").with_values({key.replace("__", "."): value for key, value in values.items()})
    path = tmp_path / "device.json"
    path.write_text(json.dumps(device.to_json()))
    return path


def test_fast_formats_are_taken_and_held_to_the_budget(monkeypatch, tmp_path):
    set_clock(monkeypatch, FAST_INT8)
    result = szilard.rewrite(block_model(), calibration=samples(), out=tmp_path / "out")
    assert set(actions(result).values()) >= {"int8_static"}
    assert result.after < result.before
    assert 0 < result.report["error"]["measured"] <= 0.02
    assert result.report["error"]["held_out"]
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    reference = szilard.rewrite(block_model(), exact=True).module
    fresh = samples(2, seed=9)
    assert relative_error([{"y": session.run(None, s)[0]} for s in fresh], [reference(s) for s in fresh]) < 0.02
    onnx.checker.check_model(str(tmp_path / "out" / "model.onnx"))


def test_slow_formats_are_left_with_a_reason(monkeypatch):
    set_clock(monkeypatch, {"leave": 1e-3}, default=5e-3)
    result = szilard.rewrite(block_model(), calibration=samples())
    assert set(actions(result).values()) == {"leave"}
    assert result.before == result.after
    assert all("more joules" in c.reason for c in result.plan.choices)
    assert result.report["unchanged"] == ["onnxruntime"]


def test_an_unchanged_file_is_emitted_byte_for_byte(monkeypatch, tmp_path):
    import onnx_ir as ir

    set_clock(monkeypatch, {"leave": 1e-3}, default=5e-3)
    ir.save(block_model(), tmp_path / "model.onnx")
    szilard.rewrite(tmp_path / "model.onnx", calibration=samples(), out=tmp_path / "out")
    assert (tmp_path / "out" / "model.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()
    assert not (tmp_path / "out" / "model.py").exists()


def test_static_watts_flip_the_plan(monkeypatch, tmp_path):
    """A format that moves fewer bytes but takes longer pays on a machine without static power, and loses on one with much of it."""
    set_clock(monkeypatch, {"leave": 1.0e-3, "int8_weight": 1.2e-3}, default=9e-3)
    quiet = szilard.rewrite(block_model(), calibration=samples(), target=profile(tmp_path, static=1e-6))
    hungry = szilard.rewrite(block_model(), calibration=samples(), target=profile(tmp_path, static=500.0, power_limit=900.0))
    assert {"int8_weight", "int4_weight"} & set(actions(quiet).values())
    assert set(actions(hungry).values()) == {"leave"}


def test_the_price_of_a_byte_flips_the_plan(monkeypatch, tmp_path):
    set_clock(monkeypatch, {"leave": 1.0e-3, "int8_weight": 1.2e-3}, default=9e-3)
    dear = szilard.rewrite(block_model(), calibration=samples(), target=profile(tmp_path, byte__memory=1e-3))
    cheap = szilard.rewrite(block_model(), calibration=samples(), target=profile(tmp_path, byte__memory=1e-15))
    assert {"int8_weight", "int4_weight"} & set(actions(dear).values())
    assert not {"int8_weight", "int4_weight"} & set(actions(cheap).values())


def test_exact_means_no_bits(monkeypatch):
    set_clock(monkeypatch, {**FAST_INT8, "sum_layer_norm": 5e-4})
    result = szilard.rewrite(block_model(), calibration=samples(), exact=True)
    assert set(actions(result).values()) == {"leave", "sum_layer_norm"}
    assert result.report["error"]["measured"] < 1e-9
    refused = {o.reason for c in result.plan.choices for o in c.options if o.action == "int8_static"}
    assert refused == {"only exact rewrites were asked for"}


def test_only_the_kinds_that_were_asked_for_change(monkeypatch):
    set_clock(monkeypatch, {**FAST_INT8, "sum_layer_norm": 5e-4})
    result = szilard.rewrite(block_model(), calibration=samples(), only=["linear"])
    kinds = {c.kind for c in result.plan.choices if c.action != "leave"}
    assert kinds == {"linear"}
    (region,) = {c.site: c for c in result.plan.choices if c.kind == "region"}.values()
    assert {o.reason for o in region.options if o.action != "leave"} == {"only linear sites were to change"}
    assert "only linear sites were to change" in region.reason
    with pytest.raises(InputError, match="no sites of kind 'linears'; the kinds are attention, linear, conv, region"):
        szilard.rewrite(block_model(), only=["linears"])


def test_without_calibration_only_exact_rewrites_and_said_so(monkeypatch):
    set_clock(monkeypatch, FAST_INT8)
    result = szilard.rewrite(block_model())
    assert all(c.action in ("leave", "sum_layer_norm", "skip_layer_norm") for c in result.plan.choices)
    assert any("calibration" in o.reason for c in result.plan.choices for o in c.options)


def test_a_metric_is_the_budget(monkeypatch):
    set_clock(monkeypatch, FAST_INT8)
    calls = []

    def metric(run):
        calls.append(1)
        return 1.0 if len(calls) == 1 else 0.5

    result = szilard.rewrite(block_model(), calibration=samples(), budget=0.1, metric=metric)
    assert {c.action for c in result.plan.choices if c.kind == "linear"} == {"leave"}
    assert result.report["rolled_back"]


def test_a_plan_is_replayed_and_an_edited_one_is_obeyed(monkeypatch, tmp_path):
    set_clock(monkeypatch, FAST_INT8)
    first = szilard.rewrite(block_model(), calibration=samples(), out=tmp_path / "a")
    plan = json.loads((tmp_path / "a" / "plan.json").read_text())
    again = szilard.rewrite(block_model(), calibration=samples(), plan=tmp_path / "a" / "plan.json")
    assert actions(again) == actions(first)
    for choice in plan["choices"]:
        choice["action"] = "int8_weight" if choice["kind"] == "linear" else "leave"
    edited = szilard.rewrite(block_model(), calibration=samples(), plan=plan)
    assert set(actions(edited).values()) == {"int8_weight", "leave"}


def test_a_locked_plan_over_budget_is_exit_code_3(monkeypatch):
    set_clock(monkeypatch, FAST_INT8)
    first = szilard.rewrite(block_model(), calibration=samples())
    with pytest.raises(szilard.BudgetError, match="locked") as caught:
        szilard.rewrite(block_model(), calibration=samples(), plan=first.plan, budget=1e-12)
    assert caught.value.exit_code == 3


def test_joule_budgets(monkeypatch):
    set_clock(monkeypatch, FAST_INT8)
    free = szilard.rewrite(block_model(), calibration=samples())
    with pytest.raises(szilard.BudgetError, match="cannot be met"):
        szilard.rewrite(block_model(), calibration=samples(), budget=szilard.Budget(joules=free.after / 100))


def test_a_module_gives_both_runtimes(monkeypatch, tmp_path):
    set_clock(monkeypatch, FAST_INT8)
    block = Block().eval()
    result = szilard.rewrite(block, {"x": torch.randn(2, 5, 48)}, calibration=samples(), out=tmp_path / "out")
    assert "int8_static" in actions(result, "torch").values()
    assert "int8_static" in actions(result, "onnxruntime").values()
    assert set(actions(result, "torch")) <= set(actions(result, "onnxruntime"))
    x = samples(1, seed=5)[0]["x"]
    with torch.no_grad():
        expected = block(torch.from_numpy(x)).numpy()
        torch_output = torch.utils._pytree.tree_leaves(result.module(torch.from_numpy(x)))[0].numpy()
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    onnx_output = session.run(None, {session.get_inputs()[0].name: x})[0]
    for output in (torch_output, onnx_output):
        assert 0 < np.sum((output - expected) ** 2) / np.sum(expected**2) < 0.02
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "model.onnx", "model.py", "weights.safetensors", "plan.json", "report.html", "report.json", "report.md", "steps",
    }  # fmt: skip


def test_a_report_has_every_field_of_the_contract(monkeypatch, tmp_path):
    set_clock(monkeypatch, FAST_INT8)
    szilard.rewrite(block_model(), calibration=samples(), out=tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["format"] == 1
    assert set(report) >= {"model", "target", "workload", "budget", "sites", "choices", "misses", "joules", "seconds", "floors"}
    assert set(report["sites"]) == {"attention", "linear", "conv", "region", "embedding"}
    assert report["sites"]["linear"] == 2
    assert set(report["joules"]) >= {"before", "after", "label"}
    assert report["joules"]["label"] == "modelled"
    assert report["joules"]["provenance"] == {"prior": pytest.approx(1.0)}
    assert "all of them rest on prior coefficients" in (tmp_path / "out" / "report.md").read_text()
    floors = report["floors"]
    assert 0 < floors["landauer_joules"] < floors["landauer_stored_joules"] < report["joules"]["before"]
    assert 0 < floors["io_bytes"] <= floors["core_bytes"]
    assert floors["token"] is None
    assert set(report["error"]) >= {"budget", "measured", "metric", "metric_before", "metric_after"}
    assert {"pass", "changed", "nodes_before", "nodes_after", "max_error", "seconds"} <= set(report["steps"][0])
    choice = report["choices"][0]
    assert {"site", "kind", "action", "options", "joules_before", "joules_after", "error_predicted", "reason"} <= set(choice)


def test_what_cannot_be_used_is_said_before_any_work(monkeypatch, tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(szilard.InputError, match="exists already"):
        szilard.rewrite(block_model(), out=tmp_path / "taken")
    with pytest.raises(szilard.InputError, match="must not be negative"):
        szilard.rewrite(block_model(), budget=-1)
    with pytest.raises(szilard.InputError, match="plan"):
        szilard.rewrite(block_model(), plan=tmp_path / "none.json")


def test_what_onnxruntime_cannot_run_is_rewritten_for_torch_alone(monkeypatch, tmp_path):
    set_clock(monkeypatch, FAST_INT8)
    block, inputs = Block().eval().bfloat16(), {"x": torch.randn(2, 5, 48, dtype=torch.bfloat16)}
    result = szilard.rewrite(block, inputs, calibration=samples(), out=tmp_path / "out")
    assert [each.backend.runtime for each in result.optimised] == ["torch"]
    assert set(actions(result, "torch").values()) >= {"int8_static"}
    (reason,) = {miss.reason for miss in result.plan.misses if miss.kind == "export"}
    assert "no .onnx file is written: onnxruntime cannot load" in reason
    assert reason in result.report["model"]["notes"]
    assert {"model.onnx", "model.py"} & {path.name for path in (tmp_path / "out").iterdir()} == {"model.py"}
