"""An emitted folder with Triton kernels: it runs where neither szilard nor triton can be imported, and two of them load side by side."""

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import szilard
from szilard import kernels
from szilard.kernels.quantized_linear.formats import TRITON_FORMATS, prepare
from szilard.passes.fx_quantize_linear import FxQuantizeLinear
from szilard.rewriter.calibration_data import relative_error
from szilard.rewriter.emit_torch import emit_torch

from .fx_graphs import choice, cleaned, run, sites_of, traced

ALONE = """
import runpy, sys
for name in ("szilard", "triton", "transformers", "onnx", "onnxruntime", "networkx"):
    sys.modules[name] = None
runpy.run_path(sys.argv[1], run_name="__main__")
"""

INTERPRETED = """
import importlib.util, sys, torch
sys.modules["szilard"] = None
torch.manual_seed(0)
spec = importlib.util.spec_from_file_location("model", sys.argv[1])
model = importlib.util.module_from_spec(spec)
spec.loader.exec_module(model)
kernel = model.linear_int8
x, weight = torch.randn(3, 37), torch.randint(-127, 128, (37, 11), dtype=torch.int8)
scale, bias = torch.rand(11) / 50, torch.randn(11)
found, wanted = kernel.linear_int8_triton(x, weight, scale, bias), kernel.linear_int8_plain(x, weight, scale, bias)
assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4), (found - wanted).abs().max()
print("equal")
"""

WITHOUT_TRITON = """
import runpy, sys, torch
sys.modules["triton"] = None
kernel = runpy.run_path(sys.argv[1])["linear_int8"]
kernel.linear_int8(torch.ones(2, 3), torch.ones(3, 4, dtype=torch.int8), torch.ones(4))
try:
    kernel.linear_int8_triton(torch.ones(2, 3), torch.ones(3, 4, dtype=torch.int8), torch.ones(4))
except RuntimeError as fault:
    print(fault)
"""


class Block(nn.Module):
    """Two linears on one input, one behind them."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.gate, self.up, self.down = nn.Linear(65, 90), nn.Linear(65, 90, bias=False), nn.Linear(90, 65)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.sigmoid(self.gate(x)) * self.up(x))


def data(count: int, seed: int) -> list[dict[str, np.ndarray]]:
    draw = np.random.default_rng(seed)
    return [{"x": draw.standard_normal((2, 3, 65)).astype(np.float32)} for _ in range(count)]


def emitted(out: Path, seed: int):
    sample = (torch.from_numpy(data(1, 5)[0]["x"]),)
    return szilard.rewrite(Block(seed), sample, target="h200", calibration=data(4, 1), out=out, budget=1e-3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    out = tmp_path_factory.mktemp("emitted")
    return {name: (out / name, emitted(out / name, seed)) for seed, name in enumerate(("first", "second"))}


def python(text: str, *arguments, **environment) -> str:
    done = subprocess.run(
        [sys.executable, "-c", text, *map(str, arguments)],
        capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def load(path: Path):
    spec = importlib.util.spec_from_file_location("model", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_plan_takes_the_kernel_and_the_folder_holds_it(folders):
    folder, result = folders["first"]
    taken = {choice.action.removesuffix("_merged") for choice in result.plan.choices if choice.runtime == "torch"}
    assert taken == {"int8_column_weight"}
    files = {str(path.relative_to(folder / "kernels")) for path in (folder / "kernels").rglob("*.*")}
    parts = {
        f"linear_parts/{name}" for name in ("__init__.py", "epilogue.py", "triton_parts.py", "tuning.py", "tuning/default.json")
    }
    assert files == {"__init__.py"} | parts | {f"linear_int8/{name}.py" for name in ("__init__", "reference", "triton_kernel")}
    for name in files:
        text = (folder / "kernels" / name).read_text()
        assert "szilard" not in text
        assert name.endswith("__init__.py") or text == (Path(kernels.__path__[0]) / name).read_text()


def test_it_runs_without_szilard_and_triton(folders):
    folder, result = folders["first"]
    lines = python(ALONE, folder / "model.py").splitlines()
    assert lines[0] == "output: [2, 3, 65] torch.float32"
    wanted = result.module(torch.from_numpy(data(1, 5)[0]["x"]))
    total = sum(float(y.double().abs().sum()) for y in torch.utils._pytree.tree_leaves(wanted))
    assert lines[1] == f"checksum: {total:.6e}"


def test_two_folders_load_side_by_side(folders):
    first, second = (load(folder / "model.py") for folder, _ in folders.values())
    assert first.linear_int8.linear_int8 is not second.linear_int8.linear_int8
    assert {Path(module.linear_int8.__file__).parents[2] for module in (first, second)} == {f for f, _ in folders.values()}
    assert "linear_int8" not in sys.modules
    fresh = data(3, 9)
    for seed, module in enumerate((first, second)):
        model, reference = module.load(), Block(seed).eval()
        with torch.no_grad():
            found, wanted = (
                [{"y": net(torch.from_numpy(sample["x"])).numpy()} for sample in fresh] for net in (model, reference)
            )
        assert 1e-8 < relative_error(found, wanted) < 1e-3


def test_the_last_step_loads_the_kernel_of_its_folder(folders):
    folder, _ = folders["first"]
    steps = [path for path in (folder / "steps").iterdir() if "linear_int8 = import_module" in path.read_text()]
    assert steps
    assert Path(load(steps[0]).linear_int8.__file__) == folder / "kernels" / "linear_int8" / "triton_kernel.py"


def test_the_copied_kernel_runs_under_the_interpreter(folders):
    pytest.importorskip("triton")
    path = folders["first"][0] / "model.py"
    assert python(INTERPRETED, path, TRITON_INTERPRET="1").strip() == "equal"


def test_without_triton_the_kernel_says_so_and_its_plain_twin_runs(folders):
    said = python(WITHOUT_TRITON, folders["first"][0] / "model.py")
    assert "needs triton on a CUDA device" in said


@pytest.mark.parametrize("action", TRITON_FORMATS)
def test_emitted_kernels_read_torch_triton_and_each_other_and_compute_what_the_module_does(action, tmp_path):
    draw = np.random.default_rng(0)
    program = traced(nn.Linear(70, 9), torch.randn(4, 70))
    graph = cleaned(program)
    sites = sites_of(graph, program, "linear")
    made = prepare(action, draw.standard_normal((70, 9)), None, draw.standard_normal((30, 70)))
    FxQuantizeLinear(prepared=dict.fromkeys(sites, made)).apply(graph, [choice(action, sites)], sites)
    sample = {name: x.numpy() for name, x in zip(program.inputs, [torch.randn(4, 70)], strict=True)}
    emit_torch(tmp_path, graph, sample, program.inputs, program.outputs)
    files = {path.relative_to(tmp_path / "kernels") for path in (tmp_path / "kernels").rglob("*.py")}
    for path in files:
        for node in ast.walk(ast.parse((tmp_path / "kernels" / path).read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert path.parents[node.level - 1] / (node.module.replace(".", "/") + ".py") in files
            elif isinstance(node, ast.Import | ast.ImportFrom):
                name = node.names[0].name if isinstance(node, ast.Import) else node.module
                assert name.split(".")[0] in {*sys.stdlib_module_names, "torch", "triton"}
    found = load(tmp_path / "model.py").load()(torch.from_numpy(sample[program.inputs[0]]))
    assert torch.equal(found, run(graph, program, **sample)[0])


def test_onnx_on_cuda_is_labelled_unverified(folders):
    from .tiny_models import block_model, samples

    for report in (folders["first"][1].report, szilard.rewrite(block_model(), calibration=samples(), target="l4").report):
        assert any("unverified on CUDA" in note for note in report["model"]["notes"])
    cpu = szilard.rewrite(block_model(), exact=True, target="cpu").report
    assert not any("CUDA" in note for note in cpu["model"]["notes"])
