"""Folders of tiny random language models with a tokenizer of bytes, and what transformers itself generates with them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

POSITIONS = 160
TOKENS = {"vocab_size": 259, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "intermediate_size": 104}
SMALL |= {"max_position_embeddings": POSITIONS}
# name -> (model, configuration, settings)
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", SMALL | {"num_key_value_heads": 2}),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {"n_embd": 48, "n_layer": 2, "n_head": 3, "n_positions": POSITIONS}),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", SMALL | {"num_key_value_heads": 3}),
    "mistral": ("MistralForCausalLM", "MistralConfig", SMALL | {"num_key_value_heads": 2, "sliding_window": 16}),
    "mamba": ("MambaForCausalLM", "MambaConfig", {"hidden_size": 32, "num_hidden_layers": 1, "state_size": 4}),
}


def tokenizer() -> Any:
    """One token for each byte."""
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {character: 3 + index for index, character in enumerate(alphabet)}
    made = Tokenizer(models.BPE(vocab=words, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=512, **special)


@cache
def folder(kind: str) -> Path:
    """The folder of a model of that kind, widened so that what it generates does not repeat itself."""
    import transformers
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model_class, configuration, settings = KINDS[kind]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(4)
        model = getattr(transformers, model_class)(getattr(transformers, configuration)(**TOKENS, **settings))
        for parameter in model.parameters():
            if parameter.dim() == 2:
                torch.nn.init.normal_(parameter, std=1.3 / parameter.shape[-1] ** 0.5)
    made = Path(mkdtemp(prefix="szilard-tiny-"))
    model.save_pretrained(made)
    tokenizer().save_pretrained(made)
    return made


def texts(batch: int, length: int, padding: int = 0) -> dict[str, np.ndarray]:
    """Random tokens, the last row with `padding` on its left: int64 [batch, length]."""
    ids = np.random.default_rng(length).integers(3, 259, (batch, length))
    mask = np.ones_like(ids)
    ids[-1, :padding] = mask[-1, :padding] = 0
    return {"input_ids": ids, "attention_mask": mask}


def generated(kind: str | Path, given: dict[str, np.ndarray], steps: int) -> np.ndarray:
    """What transformers generates behind `given` without sampling: int64 [batch, steps]."""
    from transformers import AutoModelForCausalLM

    where = folder(kind) if isinstance(kind, str) else kind
    model = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32).eval()
    tensors = {name: torch.from_numpy(array) for name, array in given.items()}
    options = {"do_sample": False, "max_new_tokens": steps, "min_new_tokens": steps, "eos_token_id": None, "pad_token_id": 0}
    return model.generate(**tensors, **options)[:, given["input_ids"].shape[1] :].numpy()
