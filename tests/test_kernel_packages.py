"""An emitted folder whose attention has Triton kernels of several files: it runs where neither szilard nor triton can be imported, its
kernels run under the interpreter, and two of them load side by side. Covers torch_cuda.py of spectral attention too."""

import ast
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from szilard.cost_model.device import load_device
from szilard.kernels.spectral_attention import torch_cuda
from szilard.kernels.spectral_attention.causal import Layout
from szilard.kernels.spectral_attention.causal_prepare import CausalPrepared
from szilard.kernels.spectral_attention.crossover import meant_for
from szilard.kernels.spectral_attention.prepare import prepare
from szilard.passes.fx_sparse_attention import FxSparseAttention
from szilard.rewriter.emit_torch import emit_torch

from .fx_graphs import choice, cleaned, run, sites_of, traced
from .sparse_attention import planted
from .test_kernel_files import ALONE, load, python

HEADS, LENGTH, WIDTH = 2, 150, 16

INTERPRETED = """
import importlib.util, sys, torch
sys.modules["szilard"] = None
spec = importlib.util.spec_from_file_location("model", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
model = module.load()
sample = module.load_file(module.FOLDER / "sample_inputs.safetensors")
plain = model(*(sample[name] for name in module.INPUTS))
calls = []
module.spectral_attention.fits = lambda *operands: calls.append(operands) or True
found = model(*(sample[name] for name in module.INPUTS))
assert calls and not torch.equal(found, plain)
assert torch.allclose(found, plain, rtol=1e-3, atol=1e-4), (found - plain).abs().max()
print("equal")
"""


class Attention(nn.Module):
    """Attention to keys on both sides, or to earlier ones."""

    def __init__(self, causal):
        super().__init__()
        self.causal = causal

    def forward(self, q, k, v):
        return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)


def operands(seed):
    return [torch.from_numpy(x) for x in planted(seed, 1, HEADS, LENGTH, WIDTH, WIDTH)]


def emitted(folder, causal):
    """The graph of an attention for a GPU, emitted into `folder`."""
    program = traced(Attention(causal), *operands(0))
    graph = cleaned(program)
    sites = sites_of(graph, program, "attention")
    (site,) = sites.values()
    if causal:
        made = CausalPrepared((3, 2), site.scale, Layout(16, 8, 32, 16))
    else:
        queries, keys, _ = (x[0].numpy() for x in operands(1))
        made = replace(prepare(queries, keys, length=LENGTH, scale=site.scale, tile=16), budget=(2, 1))
    prepared = meant_for({site.id: made}, sites, load_device("h200"))
    assert prepared[site.id].on_cuda
    prepared = {site.id: replace(prepared[site.id], dense_below=0)}
    assert FxSparseAttention(prepared=prepared).apply(graph, [choice("spectral_sparse", sites)], sites) == 1
    folder.mkdir()
    sample = {name: x.numpy() for name, x in zip(program.inputs, operands(3), strict=True)}
    emit_torch(folder, graph, sample, program.inputs, program.outputs)
    return run(graph, program, **sample)[0]


@pytest.fixture(scope="module", params=[False, True], ids=["both sides", "causal"])
def folder(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("emitted")
    return out / "model", emitted(out / "model", request.param)


def test_it_runs_without_szilard_and_triton(folder):
    place, wanted = folder
    lines = python(ALONE, place / "model.py").splitlines()
    assert lines[0].endswith(f": [1, {HEADS}, {LENGTH}, {WIDTH}] torch.float32")
    assert float(lines[1].removeprefix("checksum: ")) == pytest.approx(float(wanted.double().abs().sum()), rel=1e-5)


def test_its_kernels_run_under_the_interpreter(folder):
    pytest.importorskip("triton")
    assert python(INTERPRETED, folder[0] / "model.py", TRITON_INTERPRET="1").strip() == "equal"


def test_two_load_side_by_side(folder):
    pytest.importorskip("triton")
    first, second = (load(folder[0] / "model.py") for _ in range(2))
    assert first.spectral_attention is not second.spectral_attention
    assert first.spectral_attention.__file__ == str(folder[0] / "kernels" / "spectral_attention" / "triton.py")
    for module in (first, second):
        found = [name for name in sys.modules if name.startswith(module.kernels + ".spectral_attention")]
        assert len(found) > 6


def test_the_package_reads_torch_triton_the_standard_library_and_itself(folder):
    files = {path.stem: ast.parse(path.read_text()) for path in (folder[0] / "kernels" / "spectral_attention").glob("*.py")}
    for tree in files.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1
                assert node.module in files
            elif isinstance(node, ast.Import | ast.ImportFrom):
                name = node.names[0].name if isinstance(node, ast.Import) else node.module
                assert name.split(".")[0] in {*sys.stdlib_module_names, "torch", "triton"}


def test_on_the_cpu_plain_torch_computes_it(monkeypatch):
    if torch_cuda.spectral_attention is not None:
        monkeypatch.setattr(torch_cuda.spectral_attention, "spectral_attention", None)
    q, k, v = operands(2)
    books = [x[0, :, :8] for x in (q, k)]
    given = (q, k, v, *books, None, 0.25, (16, 16), [2, 1])
    found = [kind.attention(*given) for kind in (torch_cuda.TritonSpectralAttention, torch_cuda.SpectralAttention)]
    assert torch.equal(*found)


def test_on_a_gpu_nothing_takes_the_place_of_the_kernels_unsaid(monkeypatch):
    there = SimpleNamespace(is_cuda=True)
    for kernels in (None, SimpleNamespace(fits=lambda *operands: False)):
        monkeypatch.setattr(torch_cuda, "spectral_attention", kernels)
        with pytest.raises(RuntimeError, match="needs triton, sm_80 or newer, and heads of up to 256 columns"):
            torch_cuda.TritonSpectralAttention.attention(there, there, there, there, there, None, 0.25, (16, 16), [2, 1])
        with pytest.raises(RuntimeError, match="needs triton, sm_80 or newer"):
            torch_cuda.TritonCausalSpectralAttention.attention(there, there, there, there)
