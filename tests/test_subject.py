"""What is measured: names and families of models, the device they run on, and the ops that the runtime really calls."""

import json
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch

from szilard.cost_model.device import load_device
from szilard.cost_model.errors import InputError
from szilard.cost_model.plan import Budget, Phase, Plan, Workload
from szilard.rewriter import onnx_as_run, subject
from szilard.rewriter.microbenchmark_graph import Chain
from szilard.rewriter.subject import family_of, names_of, open_subject, place_of, planned_workload, same_model, synchroniser


def normed(folder) -> str:
    """A file with a sum and its layer norm, which onnxruntime runs as one."""
    chain = Chain()
    total = chain.node("Add", chain.input(2, 5, 8), chain.input(2, 5, 8))
    out = chain.node("LayerNormalization", total, chain.weight(8), chain.weight(8), axis=-1)
    path = folder / "normed.onnx"
    ir.save(ir.from_proto(chain.done("", "", out).model), path)
    return str(path)


def folder_of(path, source="models/original.onnx"):
    path.mkdir()
    plan = Plan("cpu", Workload((Phase("2x5", {"x": (2, 5)}),)), Budget(), ())
    (path / "plan.json").write_text(json.dumps(plan.to_json()))
    (path / "report.json").write_text(json.dumps({"model": {"source": source}, "joules": {}}))
    return path


def test_one_model_may_be_named_in_several_ways(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.onnx").touch()
    (tmp_path / "b.onnx").touch()
    assert same_model("a.onnx", "./a.onnx")
    assert same_model("a.onnx", str(tmp_path / "a.onnx"))
    assert same_model("package.module:factory", "package.module:factory")
    assert not same_model("a.onnx", "b.onnx")
    assert not same_model("a.onnx", "missing.onnx")


def test_the_ops_are_those_that_onnxruntime_calls_and_each_has_a_time(tmp_path):
    found = open_subject(normed(tmp_path), None, None, "cpu")
    shapes = dict.fromkeys(found.program.inputs, (2, 5, 8))
    net = found.net(shapes)
    kinds = [op.kind for op in net.ops.values()]
    assert "skip_layer_norm" in kinds
    assert "add" not in kinds
    times = found.op_times(found.program.sample, 1e-4, len(net.ops))
    assert set(times.samples) == set(net.ops)


def test_where_the_optimised_graph_cannot_be_had_the_source_is_priced_and_no_op_timed(tmp_path, monkeypatch):
    def refuse(model):
        raise InputError("It cannot be loaded.")

    monkeypatch.setattr(onnx_as_run, "as_onnxruntime_runs", refuse)
    found = open_subject(normed(tmp_path), None, None, "cpu")
    kinds = [op.kind for op in found.net(dict.fromkeys(found.program.inputs, (2, 5, 8))).ops.values()]
    assert kinds[:2] == ["add", "layer_norm"]
    with pytest.raises(InputError, match=r"It cannot be loaded\."):
        found.op_times(found.program.sample, 1e-4, 2)


def test_a_profile_of_a_card_needs_a_card_and_a_torch_model(tmp_path, monkeypatch):
    h200 = load_device("h200")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"h200 is not a processor's profile.*szilard estimate --target h200"):
        place_of(h200, "h200")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert place_of(h200, "h200") == "cuda"
    assert place_of(replace(h200, kind="cpu"), "h200") == "cpu"
    with pytest.raises(InputError, match="is an ONNX model, and models are measured on a card by PyTorch"):
        open_subject(normed(tmp_path), None, None, "cuda")
    assert synchroniser("cpu") is None
    assert synchroniser("cuda") is torch.cuda.synchronize


def test_a_torch_model_is_moved_to_the_card(monkeypatch, tmp_path):
    (tmp_path / "one_layer.py").write_text(
        "import torch\ndef factory():\n    return torch.nn.Linear(3, 4).eval(), (torch.ones(2, 3),)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subject, "CARD", "meta")
    found = open_subject("one_layer:factory", None, None, "meta")
    assert {weight.device.type for weight in found.program.graph.parameters()} == {"meta"}
    assert [op.kind for op in found.net(dict.fromkeys(found.program.inputs, (2, 3))).ops.values()] == ["matmul"]
    times = found.op_times({name: np.ones((2, 3), np.float32) for name in found.program.inputs}, 1.0, 1)
    assert len(times.samples) == 1


def test_names_are_short_and_differ(tmp_path):
    file = normed(tmp_path)
    folder = folder_of(tmp_path / "out")
    assert names_of([file, str(folder)]) == ["normed", "out"]
    assert names_of(["szilard.models.minilm:factory", "package.vit:small", "hf:models/bert"]) == ["minilm", "vit.small", "bert"]
    assert names_of(["a/model.onnx", "b/model.onnx"]) == ["a/model", "b/model"]
    assert names_of(["x/a/model.onnx", "y/a/model.onnx"]) == ["x/a/model.onnx", "y/a/model.onnx"]


def test_a_folder_belongs_to_the_family_of_its_original(tmp_path):
    folder = folder_of(tmp_path / "out")
    assert family_of(str(folder)) == "original"
    assert family_of(normed(tmp_path)) == "normed"
    assert family_of("szilard.models.minilm:factory") == "minilm"
    assert planned_workload(str(folder)).phases[0].name == "2x5"
    assert planned_workload(str(tmp_path)) is None
