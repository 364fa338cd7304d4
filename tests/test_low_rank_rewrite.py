"""Whole rewrites in which a weight has, or has not, a low rank: taken on both runtimes, or left with the numbers why. Covers
structure_options.py."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch

import szilard
from szilard.cost_model.device import load_device
from szilard.cost_model.sites import LinearSite
from szilard.cost_model.weight_structure import STRUCTURES
from szilard.kernels.low_rank.factors import SHARES
from szilard.rewriter.backend import groups_of
from szilard.rewriter.calibration_data import relative_error
from szilard.rewriter.explain import explain, explain_text
from szilard.rewriter.structure_options import structure_actions
from szilard.rewriter.structure_report import structure_sentence

from .tiny_models import HIDDEN, WIDTH, Block, block_model, samples, set_clock

RANK_PAYS = {"leave": 1e-3, "low_rank_half": 4e-4}


def thin(draw, rows: int, columns: int) -> np.ndarray:
    """A matrix of rank 12, and a little of full rank."""
    made = draw.standard_normal((rows, 12)) @ draw.standard_normal((12, columns)) / 12
    return (made + 0.01 * draw.standard_normal((rows, columns))).astype(np.float32)


def thin_model() -> ir.Model:
    model, draw = block_model(), np.random.default_rng(0)
    for name, shape in (("up.weight", (WIDTH, HIDDEN)), ("down.weight", (HIDDEN, WIDTH))):
        model.graph.initializers[name].const_value = ir.tensor(thin(draw, *shape), name=name)
    return model


def thin_block() -> Block:
    block, draw = Block().eval(), np.random.default_rng(0)
    with torch.no_grad():
        block.up.weight.copy_(torch.from_numpy(thin(draw, HIDDEN, WIDTH)))
        block.down.weight.copy_(torch.from_numpy(thin(draw, WIDTH, HIDDEN)))
    return block


def test_a_low_rank_is_taken_where_the_weights_have_one(monkeypatch):
    set_clock(monkeypatch, RANK_PAYS, default=5e-3)
    result = szilard.rewrite(thin_model(), calibration=samples(60), only=["linear"])
    assert {choice.action for choice in result.plan.choices if choice.kind == "linear"} == {"low_rank_half"}
    assert result.after < result.before
    assert 0 < result.report["error"]["measured"] < 0.02
    fresh = samples(2, seed=9)
    reference = szilard.rewrite(thin_model(), exact=True).module
    assert relative_error([result.module(s) for s in fresh], [reference(s) for s in fresh]) < 0.02
    option = result.plan.choices[0].option("low_rank_quarter")
    assert option.reason == "a weight of 48 x 96 has that share of its multiplications at a rank below 16"


@pytest.mark.long
def test_both_runtimes_and_the_folder_run_it(monkeypatch, tmp_path):
    set_clock(monkeypatch, RANK_PAYS, default=5e-3)
    block = thin_block()
    sample = (torch.from_numpy(samples(1)[0]["x"]),)
    out = tmp_path / "out"
    result = szilard.rewrite(block, sample, calibration=samples(60), only=["linear"], out=out)
    taken = {(choice.runtime, choice.action) for choice in result.plan.choices if choice.kind == "linear"}
    assert taken == {("torch", "low_rank_half"), ("onnxruntime", "low_rank_half")}
    with torch.no_grad():
        wanted = block(*sample).numpy()
        found = result.module(*sample)
    found = found[0] if isinstance(found, (tuple, list)) else found
    assert 0 < relative_error([{"y": found.numpy()}], [{"y": wanted}]) < 0.02
    run = subprocess.run([sys.executable, "model.py"], cwd=out, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout.split("checksum:")[1]) == pytest.approx(np.abs(found.double().numpy()).sum(), rel=1e-4)


def test_a_full_rank_is_left_and_the_report_says_why(monkeypatch):
    set_clock(monkeypatch, RANK_PAYS, default=5e-3)
    result = szilard.rewrite(block_model(), calibration=samples(60), only=["linear"])
    choices = [choice for choice in result.plan.choices if choice.kind == "linear"]
    assert {choice.action for choice in choices} == {"leave"}
    for choice in choices:
        assert choice.option("low_rank_half").error > 0.02
        assert "low_rank_half would save" in choice.reason
        assert "does not fit" in choice.reason
    rows = {row["site"]: row for row in result.report["structure"]}
    assert set(rows) == {choice.site for choice in choices}
    for row in rows.values():
        by_name = {each["structure"]: each for each in row["structures"]}
        assert tuple(by_name) == STRUCTURES
        assert row["recommended"] in by_name
        assert by_name["low_rank"]["joules"] > 1
        assert f"rank {by_name['low_rank']['size']} at" in structure_sentence(row)


def test_explain_says_what_the_theorem_says(monkeypatch, tmp_path):
    set_clock(monkeypatch, RANK_PAYS, default=5e-3)
    szilard.rewrite(thin_model(), calibration=samples(60), only=["linear"], out=tmp_path / "out")
    for name in ("report.md", "report.html"):
        text = (tmp_path / "out" / name).read_text()
        assert "Structure of weights" in text
        assert "error of a layer" in text
        assert text.count("rank 12, 0.") + text.count("rank 11, 0.") == 2
    (choice, *_) = explain(tmp_path / "out")["choices"]
    text = explain_text(explain(tmp_path / "out", choice["site"]))
    assert "Recommended: low rank." in " ".join(text.split())
    assert "has no matrix product with block-sparse weights" in " ".join(text.split())


def test_a_weight_that_takes_minutes_is_refused():
    site = LinearSite("wide", ("wide",), "x", "w", "", "y", 3000, 4000, False, 8, "float32", "wide")
    (group,) = groups_of([site])
    offered = structure_actions(group, "torch", load_device("h200"))
    assert all("a weight of 3000 x 4000 take minutes" in offered[action] for action in SHARES)
    (small,) = groups_of([replace(site, out_features=500)])
    assert not any(structure_actions(small, "torch", load_device("h200"))[action] for action in SHARES)


def test_every_structure_without_a_kernel_says_so_on_every_runtime_and_device():
    (group,) = groups_of([LinearSite("a", ("a",), "x", "w", "", "y", 300, 400, False, 8, "float32", "a")])
    for runtime in ("torch", "onnxruntime"):
        for target in ("cpu", "h200"):
            offered = structure_actions(group, runtime, load_device(target))
            for name in ("block_sparse", "two_of_four"):
                assert "of the dense joules by Theorem 3.24" in offered[name]
