"""What a hard user gives the command: one sentence on stderr, the documented code, nothing on stdout and nothing left on disk."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from typer.testing import CliRunner

from szilard.rewriter import emit
from szilard.rewriter.command_line import app

from .onnx_texts import normal, proto
from .tiny_models import block_model, samples, set_clock

SZILARD = [sys.executable, "-P", "-c", "from szilard.rewriter.command_line import main; main()"]
INT8_PAYS = {"leave": 1e-3, "int8_static": 3e-4, "int8_dynamic": 4e-4}
LINEAR = "(float[N,4] x) => (y) { h = MatMul(x, w) y = Relu(h) }"
FACTORIES = """
import torch
from torch import nn

def nonsense():
    return 1, 2, 3

def leaves():
    raise SystemExit(7)

def interrupted():
    raise KeyboardInterrupt

def calibration_of_numbers():
    return nn.Linear(2, 2), (torch.ones(2, 2),), [1, 2]

def without_result():
    class Silent(nn.Module):
        def forward(self, x):
            return None
    return Silent(), (torch.ones(2, 2),)

def raising_metric(run):
    raise ValueError("boom")

def text_metric(run):
    return "high"
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a model, its calibration data, and a module of factories under a name of its own."""
    set_clock(monkeypatch, INT8_PAYS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    ir.save(block_model(), "block.onnx")
    np.savez("good.npz", x=np.stack([sample["x"] for sample in samples()]))
    name = f"hard_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    return name


def run(*arguments: str):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(code: int, words: str, *arguments: str) -> None:
    """The command leaves with `code` and one sentence holding `words`, and leaves nothing behind."""
    before = sorted(os.listdir())
    done = run(*arguments)
    assert done.exit_code == code, done.stderr
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("szilard: ")]
    assert done.stderr.endswith(f"{sentence}\n")
    assert words in sentence
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert [name for name in sorted(os.listdir()) if name != "__pycache__"] == [n for n in before if n != "__pycache__"]


def broken_file(kind: str) -> str:
    content = Path("block.onnx").read_bytes()
    if kind == "random":
        content = np.random.default_rng(0).bytes(3000)
    if kind == "truncated":
        content = content[: len(content) // 2]
    if kind == "custom":
        node = onnx.helper.make_node("Secret", ["x"], ["y"], domain="my.company")
        value = [onnx.helper.make_tensor_value_info(name, 1, ["N", 4]) for name in ("x", "y")]
        opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("my.company", 1)]
        graph = onnx.helper.make_graph([node], "g", value[:1], value[1:])
        content = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    if kind == "nan":
        content = proto(LINEAR, {"w": np.where(normal(0, 4, 3) > 1, np.nan, 0).astype(np.float32)}).SerializeToString()
    Path("bad.onnx").write_bytes(content)
    return "bad.onnx"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("random", "bad.onnx is not an ONNX model"),
        ("truncated", "bad.onnx is not an ONNX model"),
        ("custom", "my.company:Secret"),
        ("nan", "Weight 'w' of bad.onnx holds NaN"),
    ],
)
def test_files(here, kind, words):
    refused(2, words, "rewrite", broken_file(kind), "--out", "out")


@pytest.mark.parametrize(
    ("model", "code", "words"),
    [
        ("missing.onnx", 2, "does not exist"),
        ("{}.py", 2, "is Python source"),
        ("{}:nonsense", 2, "returned a int first"),
        ("{}:leaves", 2, "raised SystemExit: 7"),
        ("{}:interrupted", 130, "Interrupted"),
        ("{}:calibration_of_numbers", 2, "Calibration sample 0 is a int"),
        ("{}:without_result", 2, "returns no tensor"),
        ("hf:.", 2, "no config.json"),
    ],
)
def test_models(here, model, code, words):
    refused(code, words, "rewrite", model.format(here), "--out", "out")


def archive(kind: str) -> str:
    good = np.load("good.npz")["x"]
    arrays = {"names": {"y": good}, "shape": {"x": good[..., :7]}, "dtype": {"x": good.astype(complex)}, "none": {}}
    content = Path("good.npz").read_bytes()
    if kind in arrays:
        np.savez("bad.npz", **arrays[kind])
    if kind in ("cut", "flipped", "model"):
        changed = {"cut": content[: len(content) // 2], "flipped": content[:900] + b"?" * 9 + content[909:]}
        Path("bad.npz").write_bytes(changed.get(kind) or Path("block.onnx").read_bytes())
    return "bad.npz"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("names", "missing ['x'], unknown ['y']"),
        ("shape", "input x has shape 3x5x7"),
        ("dtype", "dtype complex128"),
        ("none", "holds no sample"),
        ("cut", "is not a readable .npz archive"),
        ("flipped", "is not a readable .npz archive"),
        ("model", "it holds no plain arrays"),
        ("missing", "does not exist"),
    ],
)
def test_calibration(here, kind, words):
    refused(2, words, "rewrite", "block.onnx", "--out", "out", "--calib", archive(kind))


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--shape", "x=1x6x48"), 2, "1, 6, 48"),
        (("--target", "toaster"), 2, "There is no device 'toaster'"),
        (("--target", "good.npz"), 2, "cannot be read as JSON"),
        (("--metric", "{}:nothing"), 2, "has no attribute 'nothing'"),
        (("--metric", "{}:raising_metric"), 2, "raised ValueError: boom"),
        (("--metric", "{}:text_metric"), 2, "returned a str"),
        (("--plan", "nothing.json"), 2, "nothing.json cannot be read"),
        (("--plan", "good.npz"), 2, "good.npz is not JSON"),
        (("--joules", "0"), 2, "above zero"),
        (("--joules", "1e-12"), 3, "cannot be met"),
        (("--task", "embed"), 2, "--task embed needs a tokenizer"),
    ],
)
def test_options(here, options, code, words):
    options = [option.format(here) for option in options]
    refused(code, words, "rewrite", "block.onnx", "--out", "out", "--calib", "good.npz", *options)


def test_json_is_all_of_stdout_and_an_existing_folder_needs_force(here):
    arguments = ("rewrite", "block.onnx", "--calib", "good.npz", "--out", "out", "--json")
    done = run(*arguments)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["folder"] == "out"
    refused(2, "exists already", *arguments)
    assert run(*arguments, "--force").exit_code == 0
    refused(2, "does not exist; make it first", *arguments[:-2], "nowhere/out")
    refused(2, "is a file", *arguments[:-2], "good.npz", "--force")
    os.mkdir("mine")
    shutil.copy("good.npz", "mine")
    refused(2, "is not a folder that szilard wrote", *arguments[:-2], "mine", "--force")


def edited(change: str) -> None:
    plan = json.loads(Path("out/plan.json").read_text())
    choice = next(choice for choice in plan["choices"] if choice["kind"] == "linear")
    choice.update({"site": {"site": "nowhere"}, "action": {"action": "magic"}}.get(change, {}))
    plan["budget"].update({"error": "small"} if change == "limit" else {})
    Path("edited.json").write_text(json.dumps(plan))


@pytest.mark.parametrize(
    ("change", "options", "code", "words"),
    [
        ("site", (), 2, "names the site 'nowhere'"),
        ("action", (), 2, "magic"),
        ("limit", (), 2, "could not convert string to float: 'small'"),
        ("", ("--budget", "1e-12"), 3, "budget"),
    ],
)
def test_edited_plans(here, change, options, code, words):
    assert run("rewrite", "block.onnx", "--calib", "good.npz", "--out", "out").exit_code == 0
    edited(change)
    arguments = ("rewrite", "block.onnx", "--calib", "good.npz", "--out", "again", "--plan", "edited.json", *options)
    refused(code, words, *arguments)


@pytest.mark.parametrize("command", ["explain", "measure"])
def test_a_folder_with_a_broken_report(here, command):
    os.mkdir("out")
    shutil.copy("block.onnx", "out/model.onnx")
    assert run("rewrite", "block.onnx", "--out", "made").exit_code == 0
    shutil.copy("made/plan.json", "out")
    Path("out/report.json").write_text("[]")
    refused(2, "out/report.json is not a report of szilard", command, "out")


@pytest.mark.parametrize("place", ["model", "report"])
def test_a_full_disk_leaves_the_old_folder(here, monkeypatch, place):
    arguments = ("rewrite", "block.onnx", "--calib", "good.npz", "--out", "out")
    assert run(*arguments).exit_code == 0
    before = Path("out/plan.json").read_text()

    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(emit, {"model": "save_model", "report": "write_report"}[place], full)
    refused(1, "no space left on the disk", *arguments, "--force")
    assert Path("out/plan.json").read_text() == before


def test_the_console_command_from_another_folder(tmp_path):
    done = subprocess.run(
        [*SZILARD, "rewrite", "gone.onnx", "--out", "out", "--json"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "szilard: The model file gone.onnx does not exist.\n"
    assert os.listdir(tmp_path) == []
