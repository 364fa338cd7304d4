"""The emitted folder runs with torch and safetensors alone, gives the graph's outputs, and never half a file in silence."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from szilard.cost_model.errors import InputError
from szilard.kernels.quantized_linear.formats import prepare
from szilard.passes.fx_quantize_linear import FxQuantizeLinear
from szilard.rewriter.emit_torch import emit_torch

from .fx_graphs import choice, cleaned, distance, run, sites_of, traced

ALONE = """
import runpy, sys
for name in ("szilard", "transformers", "onnx", "onnxruntime", "networkx"):
    sys.modules[name] = None
runpy.run_path(sys.argv[1], run_name="__main__")
"""


class Tagger(nn.Module):
    """Tied embedding and head, an integer input, two outputs of different dtypes."""

    def __init__(self):
        super().__init__()
        self.table, self.body = nn.Embedding(17, 64), nn.Linear(64, 64)
        self.head = nn.Linear(64, 17, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids, scale):
        scores = self.head(torch.tanh(self.body(self.table(ids))) * scale)
        return scores, scores.argmax(-1)


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(0)
    names = {"ids": {0: "batch", 1: "sequence"}}
    return traced(Tagger(), torch.randint(0, 17, (2, 9)), torch.tensor(0.7), dynamic=names)


def emit(folder, graph, program):
    emit_torch(folder, graph, program.sample, program.inputs, ("scores", "tags"), program.dynamic)


def load(folder, name):
    spec = importlib.util.spec_from_file_location(name, folder / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=["float", "int8_static"])
def emitted(request, program, tmp_path_factory):
    graph = cleaned(program)
    if request.param != "float":
        sites = {name: site for name, site in sites_of(graph, program, "linear").items() if site.bias}
        weight, bias = (graph.get_parameter(f"body.{kind}").detach().numpy() for kind in ("weight", "bias"))
        activations = np.random.default_rng(0).standard_normal((50, 64)).astype(np.float32)
        prepared = {name: prepare(request.param, weight.T, bias, activations) for name in sites}
        assert FxQuantizeLinear(prepared=prepared).apply(graph, [choice(request.param, sites)], sites) == 1
    folder = tmp_path_factory.mktemp("out")
    emit(folder, graph, program)
    return folder, graph


def test_it_runs_where_importing_szilard_fails(emitted, program, tmp_path):
    folder, graph = emitted
    command = [sys.executable, "-I", "-c", ALONE, str(folder / "model.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["scores: [2, 9, 17] torch.float32", "tags: [2, 9] torch.int64"]
    total = sum(float(result.double().abs().sum()) for result in run(graph, program))
    assert lines[2:] == [f"checksum: {total:.6e}"]


def test_it_loads_as_a_module_and_takes_other_sizes(emitted, program):
    folder, graph = emitted
    model = load(folder, "emitted_once").load()
    assert not model.training
    assert distance(run(model, program), run(graph, program)) == 0
    other = {"ids": np.arange(15).reshape(3, 5)}
    assert distance(run(model, program, **other), run(graph, program, **other)) == 0


def test_two_folders_load_side_by_side(emitted, program, tmp_path):
    folder, graph = emitted
    torch.manual_seed(1)
    changed = cleaned(program)
    with torch.no_grad():
        changed.get_parameter("table.weight").mul_(2)
    emit(tmp_path, changed, program)
    with torch.no_grad():
        changed.get_parameter("table.weight").div_(2)
    first, second = load(folder, "emitted_first").load(), load(tmp_path, "emitted_second").load()
    assert distance(run(first, program), run(graph, program)) == 0
    assert distance(run(second, program)[:1], run(graph, program)[:1]) > 1e-3


def test_the_text_says_its_inputs_and_outputs(emitted):
    folder, _ = emitted
    text = (folder / "model.py").read_text()
    assert "Inputs, in order: ids, scale. Outputs, in order: scores, tags." in text
    assert "szilard" not in text
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == [
        "model.py", "sample_inputs.safetensors", "weights.safetensors",
    ]  # fmt: skip


def test_a_folder_that_cannot_be_written_is_one_sentence(program, tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        emit(tmp_path / "missing", cleaned(program), program)
