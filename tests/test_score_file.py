"""Errors kept on the disk: a killed run goes on where it stopped, and whatever an error depends on has a file of its own."""

import os
import signal
import subprocess
import sys
from math import inf

import numpy as np
import pytest

import szilard
from szilard.cost_model.plan import Budget
from szilard.cost_model.weight_structure import estimates
from szilard.rewriter import decide
from szilard.rewriter import rewrite as front
from szilard.rewriter.backend_onnx import OnnxBackend
from szilard.rewriter.calibration_data import CalibrationData
from szilard.rewriter.score import Score
from szilard.rewriter.score_file import MOST_FILES, NoScoreFile, ScoreFile, kept_scores, stamp_of

from .nets import NetBuilder
from .onnx_texts import model, normal
from .tiny_models import block_model, samples, set_clock

FAST_INT8 = {"leave": 1e-3, "int8_static": 3e-4, "int8_dynamic": 4e-4, "int8_weight": 9e-4, "int4_weight": 9.5e-4}


def test_what_was_kept_is_there_again(tmp_path):
    file = ScoreFile(tmp_path, {"model": "a"})
    file.keep("linear", ("layer.0", "int8_static"), Score(0.25, {"layer.0": "codes"}))
    file.keep("linear", ("layer.1", "int4_weight"), Score(inf, {}))
    file.keep("conv", ("layer.1", "int8"), Score(0.5, {}))
    structure = estimates(np.random.default_rng(0).standard_normal((20, 20)), None)
    file.keep("linear", ("layer.2", "low_rank_half"), Score(0.5, {}, structure=structure))
    file.write()
    found = ScoreFile(tmp_path, {"model": "a"}).scores()
    assert {key: score.error for key, score in found.items()} == {
        ("layer.0", "int8_static"): 0.25,
        ("layer.1", "int4_weight"): inf,
        ("layer.2", "low_rank_half"): 0.5,
    }
    assert found["layer.2", "low_rank_half"].structure == structure
    assert all(score.remembered and not score.prepared for score in found.values())
    assert ScoreFile(tmp_path, {"model": "b"}).scores() == {}


def test_a_folder_that_cannot_be_written_costs_no_run(tmp_path):
    (tmp_path / "taken").write_text("a file")
    file = ScoreFile(tmp_path / "taken" / "scores", {"model": "a"})
    file.keep("linear", ("x", "int8_static"), Score(0.25, {}))
    file.write()
    assert len(file.scores()) == 1


def test_the_oldest_files_make_room(tmp_path):
    for number in range(MOST_FILES + 3):
        file = ScoreFile(tmp_path, {"model": str(number)})
        file.write()
        os.utime(file.path, (number, number))
    assert len(list(tmp_path.iterdir())) == MOST_FILES
    assert not ScoreFile(tmp_path, {"model": "0"}).path.exists()


def stamp(weight=1.0, x=1.0, operator="Relu"):
    text = f"(float[N,5] x) => (float[N,3] y) {{ u = MatMul(x, a) y = {operator}(u) }}"
    graph = model(text, {"a": weight * normal(0, 5, 3)})
    data = [{"x": x * normal(1, 7, 5)}]
    return stamp_of("onnxruntime", OnnxBackend(data[0]).view(graph, {"x": (7, 5)}), data, "measured")


def test_a_stamp_is_of_the_weights_the_ops_and_the_data():
    assert stamp() == stamp()
    assert len({repr(each) for each in (stamp(), stamp(weight=1.5), stamp(x=1.5), stamp(operator="Tanh"))}) == 4


def test_a_stamp_is_of_what_branches_hold_too():
    def looping(number):
        body = NetBuilder()
        inner = body.net(body.op("add", body.input("i", 2), body.constant("c", np.full(2, number, np.float32))))
        outer = NetBuilder()
        return outer.net(outer.op("loop", outer.input("x", 2), branches=(inner,)))

    assert stamp_of("torch", looping(1.0), [], "measured") == stamp_of("torch", looping(1.0), [], "measured")
    assert stamp_of("torch", looping(1.0), [], "measured") != stamp_of("torch", looping(2.0), [], "measured")


def test_without_a_folder_or_data_nothing_is_kept(tmp_path):
    data = CalibrationData(({"x": np.ones(1)},), ({"x": np.ones(1)},), True)
    for folder, calibration in ((None, data), (tmp_path, None)):
        file = kept_scores(folder, "torch", None, calibration)
        assert isinstance(file, NoScoreFile)
        file.keep("linear", ("a", "b"), Score(1.0, {}))
        file.write()
        assert file.scores() == {}
    assert not list(tmp_path.iterdir())


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """What was measured, in order, while scores are kept in a folder of the test's own."""
    seen, real = [], decide.score_linears
    monkeypatch.setattr(front, "default_folder", lambda: tmp_path / "scores")

    def watched(wanted, *rest):
        seen.extend((group.id, name) for group, names in wanted.items() for name in names)
        return real(wanted, *rest)

    monkeypatch.setattr(decide, "score_linears", watched)
    set_clock(monkeypatch, FAST_INT8)
    return seen


def test_a_new_budget_measures_nothing_again_and_the_same_model_comes_out(measured, tmp_path):
    first = szilard.rewrite(block_model(), calibration=samples(), out=tmp_path / "a", budget=0.02)
    known = list(measured)
    assert known
    assert len(known) == len(set(known))
    measured.clear()
    again = szilard.rewrite(block_model(), calibration=samples(), out=tmp_path / "b", budget=0.02)
    assert measured == []
    assert [c.action for c in again.plan.choices] == [c.action for c in first.plan.choices]
    assert again.report["error"]["measured"] == first.report["error"]["measured"]
    assert (tmp_path / "a/model.onnx").read_bytes() == (tmp_path / "b/model.onnx").read_bytes()
    szilard.rewrite(block_model(), calibration=samples(), budget=Budget(error=0.01))
    assert not set(measured) & set(known)
    measured.clear()
    szilard.rewrite(block_model(seed=1), calibration=samples(), budget=0.02)
    assert measured


KILLED = """
import os, signal, sys
from pathlib import Path
from szilard.rewriter.score import Score
from szilard.rewriter.score_file import ScoreFile
from szilard.rewriter import part_file
part_file._EVERY = 0.0
file = ScoreFile(Path(sys.argv[1]), {"model": "a"})
for number in range(5):
    file.keep("linear", (f"layer.{number}", "int8_static"), Score(number / 8, {}))
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_measured_before_sigkill_is_kept(tmp_path):
    done = subprocess.run([sys.executable, "-P", "-c", KILLED, str(tmp_path)], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    found = ScoreFile(tmp_path, {"model": "a"}).scores()
    assert {key[0]: score.error for key, score in found.items()} == {f"layer.{n}": n / 8 for n in range(4)}
