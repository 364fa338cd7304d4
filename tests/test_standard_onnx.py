"""Whole rewrites with --onnx-style qdq: standard operators alone, within the budget, with a plan that keeps the style. Covers onnx_style.py
too."""

import json

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

import szilard
from szilard.cost_model.device import load_device
from szilard.cost_model.onnx_style import OnnxStyle, style_named
from szilard.cost_model.plan import Plan
from szilard.passes.find import find
from szilard.rewriter.backend import groups_of
from szilard.rewriter.backend_onnx import OnnxBackend
from szilard.rewriter.calibration_data import relative_error
from szilard.rewriter.candidates import times_belong_to
from szilard.rewriter.command_line import app
from szilard.rewriter.standard_onnx import standard_refusal

from .onnx_graphs import graph as text_graph
from .onnx_texts import model, normal
from .standard_onnx_runs import assert_standard
from .test_embedding_rewrite import Words, texts
from .test_onnx_quantize_conv import TEXT, weights
from .tiny_models import block_model, samples, set_clock

CLOCK = {"leave": 1e-3, "sum_layer_norm": 1e-4, "skip_layer_norm": 1e-4}
FORMATS = ["int8_static", "int8_dynamic", "int8_token", "int8_hilo", "int8_weight", "int4_weight"]


def rewritten(monkeypatch, taken: str, source=None, **options):
    set_clock(monkeypatch, {**CLOCK, taken: 3e-4}, default=9e-4)
    return szilard.rewrite(source or block_model(), calibration=samples(), onnx_style="qdq", **options)


def actions(result, kind: str) -> set[str]:
    return {choice.action for choice in result.plan.choices if choice.kind == kind and choice.runtime == "onnxruntime"}


@pytest.mark.parametrize("taken", FORMATS)
def test_a_rewrite_keeps_to_standard_operators_and_the_budget(monkeypatch, tmp_path, taken):
    result = rewritten(monkeypatch, taken, out=tmp_path / "out")
    assert actions(result, "linear") == {taken}
    assert actions(result, "region") == {"leave"}
    assert 0 < result.report["error"]["measured"] <= 0.02
    file = ir.load(tmp_path / "out" / "model.onnx")
    assert_standard(file)
    assert file.opset_imports[""] == 21
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    reference = szilard.rewrite(block_model(), exact=True).module
    fresh = samples(2, seed=9)
    assert relative_error([{"y": session.run(None, s)[0]} for s in fresh], [reference(s) for s in fresh]) < 0.02


def test_what_is_an_operator_of_onnxruntime_is_refused(monkeypatch):
    result = rewritten(monkeypatch, "int8_static")
    options = {o.action: o.reason for choice in result.plan.choices for o in choice.options}
    assert "of onnxruntime, not of standard ONNX; drop --onnx-style qdq" in options["skip_layer_norm"]
    assert "onnxruntime's own optimiser" in options["sum_layer_norm"]
    for action in ("fused_attention", "keyed_attention", "int4_weight_float16"):
        assert "not of standard ONNX" in standard_refusal(action, 21)
    for action in ("merged", "spectral_sparse", "fold_batch_norm", "low_rank_half", "int8_static_merged", "float16"):
        assert standard_refusal(action, 21) == ""


def test_a_plan_keeps_its_style(monkeypatch, tmp_path):
    first = rewritten(monkeypatch, "int8_static", out=tmp_path / "a")
    plan, report = (json.loads((tmp_path / "a" / name).read_text()) for name in ("plan.json", "report.json"))
    assert plan["onnx_style"] == report["onnx_style"] == "qdq"
    assert "ONNX style: qdq" in (tmp_path / "a" / "report.md").read_text()
    assert "ONNX style: qdq" in (tmp_path / "a" / "report.html").read_text()
    again = szilard.rewrite(block_model(), calibration=samples(), plan=tmp_path / "a")
    assert again.plan.onnx_style is OnnxStyle.qdq
    assert [c.action for c in again.plan.choices] == [c.action for c in first.plan.choices]
    assert_standard(again.optimised[0].program.graph)
    for style in (None, "qdq"):
        assert szilard.rewrite(block_model(), calibration=samples(), plan=first.plan, onnx_style=style).plan.onnx_style == "qdq"


def test_an_older_plan_is_one_of_the_runtime(monkeypatch):
    set_clock(monkeypatch, {"leave": 1e-3, "int8_static": 3e-4}, default=9e-4)
    result = szilard.rewrite(block_model(), calibration=samples())
    data = result.plan.to_json()
    assert data.pop("onnx_style") == "runtime"
    assert Plan.from_json(data).onnx_style is OnnxStyle.runtime
    with pytest.raises(szilard.InputError, match="no ONNX style 'qqq'; the styles are runtime, qdq"):
        Plan.from_json({**data, "onnx_style": "qqq"})
    with pytest.raises(szilard.InputError, match="no ONNX style"):
        style_named("")


@pytest.mark.parametrize(("made", "asked"), [("qdq", "runtime"), ("runtime", "qdq")])
def test_a_plan_of_the_other_style_is_refused(monkeypatch, tmp_path, made, asked):
    set_clock(monkeypatch, {"leave": 1e-3, "int8_static": 3e-4}, default=9e-4)
    ir.save(block_model(), tmp_path / "block.onnx")
    plan = szilard.rewrite(block_model(), calibration=samples(), onnx_style=made).plan
    (tmp_path / "plan.json").write_text(json.dumps(plan.to_json()))
    given = ["rewrite", str(tmp_path / "block.onnx"), "--plan", str(tmp_path / "plan.json")]
    done = CliRunner().invoke(app, [*given, "--onnx-style", asked, "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert f"The plan was made with --onnx-style {made}, and --onnx-style {asked} is asked for" in done.stderr
    assert not (tmp_path / "out").exists()


def test_times_of_one_style_are_not_those_of_the_other():
    keys = {times_belong_to(OnnxBackend(style=style)) for style in OnnxStyle}
    assert len(keys) == 2


def test_both_styles_have_the_same_errors(monkeypatch):
    set_clock(monkeypatch, {**CLOCK, "int8_static": 3e-5}, default=9e-4)
    found = [szilard.rewrite(block_model(), calibration=samples(), onnx_style=style) for style in OnnxStyle]
    errors = [[c.after.error for c in each.plan.choices if c.action == "int8_static"] for each in found]
    assert len(errors[0]) == 2
    assert errors[0] == pytest.approx(errors[1], rel=1e-6)


def test_products_of_codes_are_priced_as_they_run(monkeypatch):
    """What onnxruntime makes of the standard operators is priced, not the floats that they are written with: for the same seconds formats
    with a scale of the bias inside cost the same, and others one more pass over the result."""
    set_clock(monkeypatch, {}, default=1e-3)
    runtime, qdq = (szilard.rewrite(block_model(), calibration=samples(), onnx_style=style) for style in OnnxStyle)
    static = 1e-3 * load_device("cpu").value("static")
    for ours, theirs in zip(qdq.plan.choices, runtime.plan.choices, strict=True):
        assert ours.before.joules == pytest.approx(theirs.before.joules)
        if ours.kind == "linear":
            shares = {
                o.action: (o.joules - static) / (theirs.option(o.action).joules - static) for o in ours.options if not o.reason
            }
            assert shares["int4_weight"] == pytest.approx(1, rel=0.01)
            assert 1 < shares["int8_static"] < 1.6


def test_operators_that_a_model_came_with_stay_and_are_named(monkeypatch):
    text = "(float[N,48] x) => (float[N,5] y) { h = com.microsoft.QuickGelu(x) g = MatMul(h, w) y = Relu(g) }"
    set_clock(monkeypatch, {"leave": 1e-3, "int8_static": 3e-4}, default=9e-4)
    data = [{"x": normal(seed, 7, 48)} for seed in range(6)]
    result = szilard.rewrite(model(text, {"w": normal(0, 48, 5)}), calibration=data, onnx_style="qdq")
    assert actions(result, "linear") == {"int8_static"}
    assert any("outside standard ONNX (com.microsoft::QuickGelu); they stay" in n for n in result.report["model"]["notes"])
    domains = {node.op_type: node.domain for node in result.optimised[0].program.graph.graph if node.domain}
    assert domains == {"QuickGelu": "com.microsoft"}


def test_a_model_that_stays_in_its_operator_set_says_what_it_cannot_have(monkeypatch):
    monkeypatch.setattr("szilard.rewriter.raise_opset._convert", lambda graph, opset: None)
    backend, graph = OnnxBackend(samples(1)[0], OnnxStyle.qdq), block_model()
    backend.clean_up(graph)
    net = backend.view(graph, {"x": (3, 5, 48)})
    linear = next(group for group in groups_of(find(net).sites) if group.kind == "linear")
    offered = backend.actions(linear, net, load_device("cpu"))
    assert offered["int8_static"] == ""
    assert "needs opset 21, and the model stays in opset 17: its operators cannot be converted" in offered["int4_weight"]


@pytest.mark.parametrize("taken", ["int8_rows", "int4_rows"])
def test_tables_go_into_codes(monkeypatch, taken):
    set_clock(monkeypatch, {"leave": 1e-3, taken: 5e-4}, default=5e-3)
    given = (torch.from_numpy(texts(1)[0]["ids"]),)
    result = szilard.rewrite(Words().eval(), given, calibration=texts(8), only=["embedding"], onnx_style="qdq")
    assert actions(result, "embedding") == {taken}
    assert_standard(result.optimised[-1].program.graph)
    assert 0 < result.report["error"]["measured"] < 0.02


def test_convolutions_go_on_codes(monkeypatch):
    set_clock(monkeypatch, {"leave": 1e-3, "fold_batch_norm": 1e-3, "int8_conv": 5e-4})
    timed = []

    def timer(backend, graphs):
        timed.extend(node.op_type for graph, _ in graphs.values() for node in graph.graph)
        return {name: [1e-6] for name in graphs}

    monkeypatch.setattr("szilard.rewriter.edge_prices.time_in_turn", timer)
    random = np.random.default_rng(2)
    data = [{"x": random.standard_normal((2, 3, 9, 7)).astype(np.float32)} for _ in range(8)]
    result = szilard.rewrite(text_graph(TEXT, weights()), data[0], calibration=data, onnx_style="qdq")
    assert actions(result, "conv") == {"int8_conv"}
    assert set(timed) == {"QuantizeLinear", "DequantizeLinear"}
    assert_standard(result.optimised[0].program.graph)
    assert 0 < result.report["error"]["measured"] < 0.02
