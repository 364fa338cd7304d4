"""Whole rewrites of a model with a large table: in codes where it pays, on both runtimes; tied to its head it stays. Covers
fx_quantize_embedding.py and score_embedding.py."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import szilard
from szilard.cost_model.errors import InputError
from szilard.cost_model.sites import EmbeddingSite
from szilard.passes.fx_quantize_embedding import FxQuantizeEmbedding
from szilard.rewriter.calibration_data import relative_error
from szilard.rewriter.export_onnx import export_onnx

from .fx_graphs import traced
from .onnx_graphs import choose
from .tiny_models import set_clock

ROWS, WIDTH = 3000, 96
ROWS_PAY = {"leave": 1e-3, "int8_rows": 5e-4, "int4_rows": 8e-4}


class Words(nn.Module):
    """ids [B, 5] -> scores: of one layer, or of the table itself."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(ROWS, WIDTH)
        self.head = nn.Linear(WIDTH, ROWS if tied else 7, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.words(ids)).sum(1))


def texts(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    draw = np.random.default_rng(seed)
    return [{"ids": draw.integers(0, ROWS, (4, 5))} for _ in range(count)]


@pytest.fixture(scope="module")
def program():
    return traced(Words(), torch.from_numpy(texts(1)[0]["ids"]))


def test_a_table_goes_into_codes_where_they_pay(monkeypatch, program):
    set_clock(monkeypatch, ROWS_PAY, default=5e-3)
    exported = export_onnx(program)
    result = szilard.rewrite(exported.graph, exported.sample, calibration=texts(8), only=["embedding"])
    (choice,) = (choice for choice in result.plan.choices if choice.kind == "embedding")
    assert choice.action == "int8_rows"
    assert 0 < choice.after.error < 1e-4
    assert result.report["error"]["measured"] == pytest.approx(choice.after.error, rel=0.5)
    weights = [value.const_value for value in result.optimised[0].program.graph.graph.initializers.values()]
    assert sum(each.nbytes for each in weights if each.size > 1) == ROWS * (WIDTH + 4) + 4 * WIDTH * 7
    for text in texts(2, seed=9):
        with torch.no_grad():
            wanted = Words()(torch.from_numpy(text["ids"])).numpy()
        (found,) = result.module(text).values()
        assert 0 < relative_error([{"y": found}], [{"y": wanted}]) < 1e-4


def test_slow_codes_are_left_unless_a_plan_asks_for_them(monkeypatch, program):
    set_clock(monkeypatch, {"leave": 1e-3}, default=5e-3)
    exported = export_onnx(program)
    result = szilard.rewrite(exported.graph, exported.sample, calibration=texts(8), only=["embedding"])
    (choice,) = (choice for choice in result.plan.choices if choice.kind == "embedding")
    assert choice.action == "leave"
    assert "more joules" in choice.reason
    plan = result.plan.to_json()
    for each in plan["choices"]:
        each["action"] = "int4_rows" if each["kind"] == "embedding" else each["action"]
    asked = szilard.rewrite(exported.graph, exported.sample, calibration=texts(8), plan=plan)
    (choice,) = (choice for choice in asked.plan.choices if choice.kind == "embedding")
    assert (choice.action, choice.locked) == ("int4_rows", True)
    assert "GatherBlockQuantized" in {node.op_type for node in asked.optimised[0].program.graph.graph}


def test_a_table_tied_to_its_head_stays(monkeypatch):
    set_clock(monkeypatch, ROWS_PAY, default=5e-3)
    exported = export_onnx(traced(Words(tied=True), torch.from_numpy(texts(1)[0]["ids"])))
    result = szilard.rewrite(exported.graph, exported.sample, calibration=texts(8), only=["embedding"])
    assert not [choice for choice in result.plan.choices if choice.kind == "embedding"]
    assert any("shares its table with" in miss.reason for miss in result.plan.misses)


@pytest.mark.long
def test_both_runtimes_and_the_folder_look_up_the_same_rows(monkeypatch, tmp_path):
    set_clock(monkeypatch, {**ROWS_PAY, "int4_rows": 4e-4}, default=5e-3)
    out, sample = tmp_path / "out", (torch.from_numpy(texts(1)[0]["ids"]),)
    result = szilard.rewrite(Words().eval(), sample, calibration=texts(8), only=["embedding"], out=out)
    taken = {(c.runtime, c.action) for c in result.plan.choices if c.kind == "embedding"}
    assert taken == {("torch", "int4_rows"), ("onnxruntime", "int4_rows")}
    with torch.no_grad():
        found = result.module(*sample)
    found = found[0] if isinstance(found, (tuple, list)) else found
    run = subprocess.run([sys.executable, "model.py"], cwd=out, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout.split("checksum:")[1]) == pytest.approx(np.abs(found.double().numpy()).sum(), rel=1e-5)


def test_a_site_that_is_not_in_the_model_is_named(program):
    site = EmbeddingSite("words", ("n0",), "i", "w", "y", ROWS, WIDTH, 6, "float32")
    with pytest.raises(InputError, match="'words', which was not found"):
        FxQuantizeEmbedding().apply(program.graph, [choose("int8_rows", site)], {})
