"""A causal language model as a prefill and a decode step: what transformers generates comes out of both, on torch and in onnxruntime.
Covers programs.py, rewritten.py, report_programs.py and cache_names.py too."""

import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import szilard
from szilard.models.greedy import greedy
from szilard.rewriter.runtime_torch import torch_runner

from . import tiny_language_models as tiny
from .tiny_models import set_clock

EXACT_PAYS = {"leave": 1e-3} | dict.fromkeys(("merged", "fused_attention", "skip_layer_norm", "sum_layer_norm"), 4e-4)
WEIGHTS_PAY = {"leave": 1e-3, "int8_weight": 4e-4, "int4_weight": 3e-4}
STEPS = 64
PROMPTS = (tiny.texts(1, 13), tiny.texts(2, 21, padding=6))


def session(path: Path):
    opened = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in opened.get_outputs()]
    return lambda feeds: dict(zip(names, opened.run(names, feeds), strict=True))


def emitted(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return torch_runner(module.load(), module.INPUTS, module.OUTPUTS)


def rewritten(kind, **options):
    return szilard.rewrite(f"hf:{tiny.folder(kind)}", task="causal-lm", **options)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
def test_exact_rewrites_generate_what_the_model_does(kind, monkeypatch, tmp_path):
    set_clock(monkeypatch, EXACT_PAYS, default=9e-3)
    result = rewritten(kind, exact=True, out=tmp_path / "out")
    assert all(each.changed for each in result.optimised if each.backend.runtime == "onnxruntime")
    out = tmp_path / "out"
    modules = [
        torch_runner(result.modules[name], each.program.inputs, each.program.outputs)
        for name, each in zip(("prefill", "decode"), result.optimised[::2], strict=True)
    ]
    pairs = {
        "modules": modules,
        "model.py": [emitted(out / name) for name in ("model.py", "model_with_past.py")],
        "model.onnx": [session(out / name) for name in ("model.onnx", "model_with_past.onnx")],
    }
    for given in PROMPTS:
        wanted = tiny.generated(kind, given, STEPS)
        assert len(np.unique(wanted)) > 8
        for name, pair in pairs.items():
            assert np.array_equal(greedy(*pair, **given, steps=STEPS), wanted), name
