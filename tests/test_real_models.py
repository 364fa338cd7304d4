"""Models that nobody here trained, and one of each transformers architecture, through the whole rewrite: exactly, within the budget, and
left as they were where nothing pays."""

import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import szilard
from szilard.models import efficientnet, rapidocr, silero
from szilard.models.tiny_transformers import FAMILIES
from szilard.rewriter.calibration_data import relative_error

from .tiny_models import set_clock

torch.set_num_threads(1)

BUDGET = 0.02
ROUNDING = 1e-9
EXACT = ("merged", "fused_attention", "skip_layer_norm", "sum_layer_norm", "fold_batch_norm")
EXACT_PAYS = {"leave": 1e-3} | dict.fromkeys(EXACT, 4e-4)
INT8_PAYS = {"leave": 1e-3, "int8_static": 3e-4, "int8_dynamic": 4e-4, "int8_static_merged": 3e-4, "fold_batch_norm": 5e-4}
NOTHING_PAYS = {"leave": 1e-3}


@dataclass(frozen=True)
class Case:
    """`model` and `sample` as `szilard.rewrite` takes them; `inputs` are two that differ in every free axis."""

    model: Any
    sample: Any
    calibration: list[dict[str, np.ndarray]]
    inputs: list[dict[str, np.ndarray]]


def session(path: Path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    opened = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in opened.get_outputs()]
    return lambda feeds: dict(zip(names, opened.run(names, feeds), strict=True))


def stacked(samples: list[dict[str, np.ndarray]], axes: dict[str, int]) -> dict[str, np.ndarray]:
    """Samples as one batch along the axis of each input; an input without one is that of the first."""
    whole = {name: np.concatenate([sample[name] for sample in samples], axis) for name, axis in axes.items()}
    return {**samples[0], **whole}


def resized(sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A third row, and texts three tokens shorter, of the sample's own values."""
    text = {n: np.resize(a, (3, a.shape[1] - 3)) for n, a in sample.items() if a.dtype == np.int64}
    return {name: np.resize(array, (3, *array.shape[1:])) for name, array in sample.items()} | text


@cache
def case(name: str) -> Case:
    if name == "silero":
        frames = silero.calibration(session(silero.path()), 8)
        several = stacked(frames[3:6], {"input": 0, "state": 1})
        return Case(silero.path(), None, frames, [frames[2], several])
    if name == "recognition":
        lines = rapidocr.line_calibration(6)
        pair = np.resize(lines[1]["x"], (2, *lines[1]["x"].shape[1:]))
        return Case(rapidocr.recognition(), None, lines, [lines[0], {"x": pair}])
    if name == "detection":
        pages = [rapidocr.page_input(seed, 96 + 32 * seed, 128) for seed in range(2)]
        return Case(rapidocr.detection(), None, pages, [pages[0], {"x": np.concatenate([pages[1]["x"]] * 2)}])
    if name == "efficientnet":
        module, sample, calibration = efficientnet.factory()
        return Case(module, sample, calibration[:2], [calibration[2], {"image": efficientnet.images(2, seed=7)}])
    module, sample = FAMILIES[name]()
    arrays = {key: tensor.numpy() for key, tensor in sample.items()}
    return Case(module, sample, [resized(arrays), arrays], [arrays, resized(arrays)])


def outputs(given: Case, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    if isinstance(given.model, Path):
        return list(session(given.model)(feeds).values())
    with torch.no_grad():
        found = given.model(**{name: torch.from_numpy(array) for name, array in feeds.items()})
    return [tensor.numpy() for tensor in (found if isinstance(found, tuple) else (found,))]


def emitted(folder: Path, feeds: dict[str, np.ndarray]) -> list[list[np.ndarray]]:
    """The outputs of model.onnx, and of model.py where there is one."""
    found = [list(session(folder / "model.onnx")(feeds).values())]
    if (folder / "model.py").exists():
        spec = importlib.util.spec_from_file_location("emitted_model", folder / "model.py")
        made = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(made)
        with torch.inference_mode():
            results = made.load()(*(torch.from_numpy(feeds[name]) for name in made.INPUTS))
        found.append([result.numpy() for result in (results if isinstance(results, tuple) else (results,))])
    return found


def distance(got: list[np.ndarray], want: list[np.ndarray]) -> float:
    """The largest relative squared error among the outputs, which are as many and of the same dtypes."""
    assert [array.dtype for array in got] == [array.dtype for array in want]
    return max(relative_error([{"y": a}], [{"y": b}]) for a, b in zip(got, want, strict=True))


def named(arrays) -> dict[str, np.ndarray]:
    return {f"output {place}": array for place, array in enumerate(arrays)}


def actions(result: szilard.Result) -> set[str]:
    return {choice.action for choice in result.plan.choices}


LONG = [pytest.param(name, marks=pytest.mark.long) for name in ("recognition", "detection", "efficientnet", *FAMILIES)]
NAMES = ["silero", *LONG]
PAYS_EXACTLY = {
    "silero": set(),
    "recognition": {"fold_batch_norm"},
    "detection": set(),
    "efficientnet": {"fold_batch_norm"},
    "bert": {"merged", "fused_attention"},
    "gpt2": {"fused_attention"},
}


@pytest.mark.parametrize("name", NAMES)
def test_an_exact_rewrite_is_equal_to_rounding(monkeypatch, tmp_path, name):
    given = case(name)
    set_clock(monkeypatch, EXACT_PAYS, default=5e-3)
    result = szilard.rewrite(given.model, given.sample, exact=True, out=tmp_path / "out")
    assert actions(result) <= {"leave", *EXACT}
    assert actions(result) - {"leave"} >= PAYS_EXACTLY.get(name, {"merged"}), actions(result)
    assert not result.report["rolled_back"]
    for feeds in given.inputs:
        want = outputs(given, feeds)
        for got in emitted(tmp_path / "out", feeds):
            assert distance(got, want) < ROUNDING


@pytest.mark.parametrize("name", NAMES)
def test_a_rewrite_stays_within_the_budget(monkeypatch, tmp_path, name):
    given = case(name)
    set_clock(monkeypatch, INT8_PAYS, default=5e-3)
    result = szilard.rewrite(given.model, given.sample, calibration=given.calibration, out=tmp_path / "out")
    error = result.report["error"]
    assert error["held_out"]
    assert error["measured"] <= BUDGET
    if name not in ("silero", "detection"):
        assert {action for action in actions(result) if action.startswith("int8")}
        assert error["measured"] > 0
    held_out = given.calibration[1::2]
    want = [named(outputs(given, feeds)) for feeds in held_out]
    for runtime in range(len(emitted(tmp_path / "out", held_out[0]))):
        got = [named(emitted(tmp_path / "out", feeds)[runtime]) for feeds in held_out]
        assert relative_error(got, want) <= BUDGET * 1.01


@pytest.mark.parametrize("name", NAMES)
def test_where_nothing_pays_the_model_is_left_and_said_so(monkeypatch, tmp_path, name):
    given = case(name)
    set_clock(monkeypatch, NOTHING_PAYS, default=5e-3)
    result = szilard.rewrite(given.model, given.sample, calibration=given.calibration, out=tmp_path / "out")
    assert actions(result) <= {"leave"}
    assert result.before == result.after
    assert set(result.report["unchanged"]) == set(result.report["runtimes"])
    assert "Nothing was changed" in (tmp_path / "out" / "report.md").read_text()
    assert all(choice.reason for choice in result.plan.choices)
    if isinstance(given.model, Path):
        assert (tmp_path / "out" / "model.onnx").read_bytes() == given.model.read_bytes()


def test_silero_keeps_its_recurrent_layer_with_a_reason_on_a_real_clock():
    """Its convolutions may pay on codes (0.76 of its time when this was written); nothing else does."""
    given = case("silero")
    result = szilard.rewrite(given.model, calibration=given.calibration)
    assert actions(result) <= {"leave", "int8_conv"}
    assert all(c.action == "leave" or c.after.joules < c.before.joules for c in result.plan.choices)
    assert any("LSTM" in miss.op and "recurrent" in miss.reason for miss in result.plan.misses)
    assert result.report["floors"]["unpriced"] == []


@pytest.mark.long
@pytest.mark.parametrize("name", ["recognition", "efficientnet"])
def test_what_must_change_changes_on_a_real_clock(tmp_path, name):
    given = case(name)
    result = szilard.rewrite(given.model, given.sample, calibration=given.calibration, out=tmp_path / "out")
    assert actions(result) - {"leave"}
    assert result.after < result.before
    assert result.report["error"]["measured"] <= BUDGET
    assert "fold_batch_norm" in actions(result)
