"""Greedy generation with a rewritten prefill and decode step against transformers' own, token by token: python -P -m
szilard.benchmarks.generation [--model DIR] [--rewritten DIR] [--steps 64], of SmolLM2 where no folder is named.

The emitted files run alone: model.py and model_with_past.py in torch, model.onnx and model_with_past.onnx in onnxruntime.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from ..models import smollm
from ..models.greedy import Run, greedy
from ..rewriter.rewrite import rewrite

STEPS = 64
PROMPTS = (
    ("The capital of France is", "Once upon a time there was a small robot who"),
    ("def fibonacci(n):\n    if n < 2:\n        return n\n",),
    ("Energy cannot be created or destroyed, which means that",),
)
"""Texts of a batch each; the first one has two of different lengths, so that one of them is padded on the left."""
STEMS = ("model", "model_with_past")


def onnx_run(path: Path) -> Run:
    """An emitted .onnx file in plain onnxruntime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))


def torch_run(path: Path) -> Run:
    """An emitted .py file in plain torch."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.load()

    def run(feeds: dict[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        with torch.inference_mode():
            results = model(*(torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in module.INPUTS))
        return {name: result.numpy() for name, result in zip(module.OUTPUTS, results, strict=True)}

    return run


def prompts(folder: Path) -> list[dict[str, np.ndarray]]:
    """The prompts as the model of `folder` reads them, padded on the left: input_ids and attention_mask, int64 [B, L]."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, padding_side="left")
    found = [tokenizer(list(texts), padding=True, return_tensors="np") for texts in PROMPTS]
    return [{name: np.asarray(each[name], np.int64) for name in ("input_ids", "attention_mask")} for each in found]


def original(folder: Path, given: Sequence[Mapping[str, np.ndarray]], steps: int) -> list[np.ndarray]:
    """What transformers generates without sampling: int64 [B, steps] for each prompt."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32, local_files_only=True).eval()
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": steps, "min_new_tokens": steps, "eos_token_id": None}
    found = []
    for each in given:
        tensors = {name: torch.from_numpy(array) for name, array in each.items()}
        made = model.generate(**tensors, **options, pad_token_id=0)
        found.append(made[:, each["input_ids"].shape[1] :].numpy())
    return found


def equal_tokens(pair: Sequence[Run], given: Mapping[str, np.ndarray], wanted: np.ndarray) -> int:
    """How many tokens of all texts of a batch are those wanted, up to the first other one in each."""
    made = greedy(pair[0], pair[1], given["input_ids"], given["attention_mask"], wanted.shape[1])
    return int(np.logical_and.accumulate(made == wanted, axis=1).sum())


def compared(folder: Path, out: Path, steps: int) -> list[str]:
    """One sentence for each runtime."""
    given = prompts(folder)
    wanted = original(folder, given, steps)
    total = sum(each.size for each in wanted)
    sentences = []
    for runtime, ending, run in (("torch", ".py", torch_run), ("onnxruntime", ".onnx", onnx_run)):
        pair = [run(out / f"{stem}{ending}") for stem in STEMS]
        equal = sum(equal_tokens(pair, each, want) for each, want in zip(given, wanted, strict=True))
        sentences.append(f"{runtime}: {equal} of {total} tokens are those of transformers, {steps} behind each of the prompts")
    return sentences


def main(arguments: Sequence[str] | None = None) -> None:
    """Rewrites exactly, unless --rewritten names a folder that holds both programs, and prints a sentence for each runtime."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a transformers folder (default: SmolLM2)")
    parser.add_argument(
        "--rewritten", type=Path, help="a folder that szilard rewrite wrote of it (default: an exact rewrite, made anew)"
    )
    parser.add_argument("--steps", type=int, default=STEPS)
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="szilard-") as scratch:
        folder = chosen.model or smollm.folder(Path(scratch))
        out = chosen.rewritten or Path(scratch) / "out"
        if chosen.rewritten is None:
            rewrite(f"hf:{folder}", task="causal-lm", exact=True, out=out, progress=print)
        print("\n".join(compared(folder, out, chosen.steps)))


if __name__ == "__main__":
    main()
