"""Whatever a user names as a model is loaded, or refused with a sentence. Covers archive_pt2.py."""

import json
import pickle
import sys
import zipfile

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from szilard.cost_model.errors import InputError
from szilard.rewriter import load as module_under_test
from szilard.rewriter.archive_pt2 import load_pt2
from szilard.rewriter.load import load

from .onnx_texts import normal, proto

LINEAR = "(float[N,4] x) => (y) { h = MatMul(x, w) y = Relu(h) }"
FACTORIES = """
import torch
from torch import nn

def good():
    return nn.Linear(3, 4), (torch.ones(2, 3),)

def calibrated():
    return nn.Linear(3, 4), (torch.ones(2, 3),), [{"input": torch.ones(2, 3).numpy()}]

def exported():
    return torch.export.export(nn.Linear(3, 4), (torch.ones(2, 3),))

def alone():
    return nn.Linear(3, 4)

def text():
    return "model"

def leaves():
    raise SystemExit(7)

def raises():
    raise RuntimeError("no disk")

constant = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory with a module of factories; its name is new each time, since imports are cached."""
    name = f"factories_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    (tmp_path / f"broken_{name}.py").write_text("1 / 0\n")
    (tmp_path / f"leaves_{name}.py").write_text("import sys; sys.exit(3)\n")
    (tmp_path / f"needs_{name}.py").write_text("import a_module_that_nobody_has\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def test_onnx_files_folders_and_models(tmp_path):
    built = proto(LINEAR, {"w": normal(0, 4, 3)})
    onnx.save(built, tmp_path / "model.onnx")
    for model in (tmp_path / "model.onnx", str(tmp_path), built, onnx.load(tmp_path / "model.onnx")):
        loaded = load(model, shapes={"x": (5, 4)})
        assert loaded.program.sample["x"].shape == (5, 4)
        assert (loaded.calibration, loaded.metric) == (None, None)
    assert load(loaded.program).program is loaded.program


def test_modules_and_exported_programs():
    module = nn.Linear(3, 4)
    assert load(module, sample=(torch.ones(2, 3),)).program.inputs == ("input",)
    assert load(torch.export.export(module, (torch.ones(2, 3),))).program.outputs == ("output",)
    with pytest.raises(InputError, match="needs sample inputs"):
        load(module)
    with pytest.raises(InputError, match="A list is no model"):
        load([module])


def test_a_sample_replaces_what_the_model_brings(here, tmp_path):
    built = proto(LINEAR, {"w": normal(0, 4, 3)})
    onnx.save(built, tmp_path / "model.onnx")
    exported = torch.export.export(nn.Linear(4, 3), (torch.ones(2, 4),), dynamic_shapes=({0: torch.export.Dim("rows")},))
    torch.export.save(exported, tmp_path / "model.pt2")
    x = normal(1, 7, 4)
    paths = (tmp_path / "model.onnx", tmp_path, tmp_path / "model.pt2")
    for model in (*paths, built, onnx.load(tmp_path / "model.onnx"), exported, load(exported).program):
        (name,) = load(model).program.inputs
        np.testing.assert_array_equal(load(model, sample={name: x}).program.sample[name], x)
        with pytest.raises(InputError, match=r"The sample.*unknown \['z'\]"):
            load(model, sample={"z": x})
        with pytest.raises(InputError, match=name):
            load(model, sample={name: x[:, :3]})
    np.testing.assert_array_equal(load(f"{here}:good", sample=[x[:, :3]]).program.sample["input"], x[:, :3])
    with pytest.raises(InputError, match="input input has shape 7x4, the model reads batchx3"):
        load(f"{here}:good", sample=(x,))


def test_factories(here):
    assert load(f"{here}:good").program.source == f"{here}:good"
    assert load(f"{here}:calibrated").calibration[0]["input"].shape == (2, 3)
    assert load(f"{here}:exported").program.inputs == ("input",)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("{}:raises", "raised RuntimeError: no disk"),
        ("{}:leaves", "raised SystemExit: 7"),
        ("leaves_{}:f", "importing leaves_{} raised SystemExit: 3"),
        ("{}:alone", "returned 1 things"),
        ("{}:text", "returned a str first"),
        ("{}:constant", "is a int; it must be a function"),
        ("{}:nothing", "has no 'nothing'"),
        ("nowhere_{}:f", "no module 'nowhere_{}'; run from the folder"),
        ("needs_{}:f", "no module 'a_module_that_nobody_has'; install"),
        ("broken_{}:f", "importing broken_{} raised ZeroDivisionError"),
    ],
)
def test_faults_of_factories_are_sentences(here, spec, words):
    with pytest.raises(InputError, match=words.format(here)):
        load(spec.format(here))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nothing.onnx", "does not exist"),
        ("nothing.pt2", "does not exist"),
        ("nothing at all", "There is no model 'nothing at all'"),
        ("hf:nowhere", "The folder nowhere does not exist"),
        ("hf:empty", "no config.json"),
        ("empty", "The folder empty holds no model.onnx"),
        ("weights.pth", "pickled Python objects"),
        ("weights.safetensors", "weights without a model"),
        ("transformer", "write hf:transformer"),
        ("hf:transformer", "no .safetensors"),
        ("torn.pt2", "cut off"),
        ("other.pt2", "no exported program"),
    ],
)
def test_faults_of_specs_are_sentences(here, tmp_path, spec, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "weights.pth").write_bytes(pickle.dumps({"w": 1}))
    (tmp_path / "weights.safetensors").write_bytes(b"")
    (tmp_path / "torn.pt2").write_bytes(b"PK\x03\x04 torn")
    with zipfile.ZipFile(tmp_path / "other.pt2", "w") as archive:
        archive.writestr("a/readme", "hello")
    with pytest.raises(InputError, match=words) as caught:
        load(spec)
    assert "\n" not in str(caught.value)


def test_a_task_for_a_lone_onnx_file_says_what_is_missing(tmp_path):
    onnx.save(proto(LINEAR, {"w": normal(0, 4, 3)}), tmp_path / "model.onnx")
    with pytest.raises(InputError, match="--task embed needs a tokenizer"):
        load(tmp_path / "model.onnx", task="embed")


class Recipe:
    inputs = ("input",)
    output = "logits"
    metric_name = "share"
    sample = {"input": np.ones((2, 3), np.float32)}  # noqa: RUF012
    calibration = [sample]  # noqa: RUF012
    notes = ("A note.",)

    def metric(self, run):
        return 0.5

    def build(self):
        return nn.Linear(3, 4)


def test_a_transformers_folder_brings_its_recipe(tmp_path, monkeypatch):
    monkeypatch.setattr(module_under_test, "_recipe", lambda task, folder, length: Recipe())
    loaded = load(f"hf:{tmp_path}", task="classify")
    assert loaded.program.outputs == ("logits",)
    assert loaded.program.dynamic == {"input": {0: "batch", 1: "sequence"}} or loaded.program.notes
    assert (loaded.metric_name, loaded.metric(None), len(loaded.calibration), loaded.notes) == ("share", 0.5, 1, ("A note.",))


def saved(path):
    module = nn.Linear(3, 4)
    torch.export.save(torch.export.export(module, (torch.ones(2, 3),), dynamic_shapes=({0: torch.export.Dim("rows")},)), path)
    return module


def test_an_archive_of_torch_export_is_read(tmp_path):
    module = saved(tmp_path / "linear.pt2")
    program = load(tmp_path / "linear.pt2").program
    x = torch.randn(5, 3)
    torch.testing.assert_close(program.graph(x)[0], module(x))
    assert list(program.dynamic["input"]) == [0]


class Bomb:
    def __reduce__(self):
        return (exec, ("import sys; sys.bomb_went_off = True",))


@pytest.mark.parametrize("place", ["weight", "constant", "sample"])
def test_an_archive_that_would_be_unpickled_is_refused(tmp_path, place):
    saved(tmp_path / "linear.pt2")
    with zipfile.ZipFile(tmp_path / "linear.pt2") as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    ending = {"weight": "weights_config.json", "constant": "constants_config.json", "sample": "model.pt"}[place]
    name = next(name for name in content if name.endswith(ending))
    if place == "sample":
        content[name] = pickle.dumps(Bomb())
    else:
        config = json.loads(content[name])
        config["config"]["weight"] = {"path_name": "weight_0", "is_param": True, "use_pickle": True, "tensor_meta": None}
        content[name] = json.dumps(config).encode()
        content["linear/data/weights/weight_0"] = pickle.dumps(Bomb())
    with zipfile.ZipFile(tmp_path / "bomb.pt2", "w") as archive:
        for each, data in content.items():
            archive.writestr(each, data)
    with pytest.raises(InputError, match="pickle"):
        load_pt2(tmp_path / "bomb.pt2")
    assert not hasattr(sys, "bomb_went_off")
