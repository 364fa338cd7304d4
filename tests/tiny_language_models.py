"""Folders of tiny random language models with a tokenizer of bytes, and what transformers itself generates with them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn

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


def texts(batch: int, length: int, padding: int = 0, words: int = 259) -> dict[str, np.ndarray]:
    """Random tokens below `words`, the last row with `padding` on its left: int64 [batch, length]."""
    ids = np.random.default_rng(length).integers(3, words, (batch, length))
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


class OneLayer(nn.Module):
    """One layer of attention, 2 heads of 8 over 31 tokens, in the form that transformers gives a language model."""

    def __init__(self, positions: int = 40) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(31, 16), nn.Embedding(positions, 16)
        self.query, self.key, self.value, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.head = nn.Linear(16, 31)
        text = SimpleNamespace(max_position_embeddings=positions)
        self.config = SimpleNamespace(get_text_config=lambda: text)

    def forward(self, input_ids, attention_mask, position_ids=None, past_key_values=None, use_cache=True, return_dict=True):
        """(logits, caches) by attribute."""
        from transformers.cache_utils import DynamicCache

        cache = DynamicCache() if past_key_values is None else past_key_values
        batch, new = input_ids.shape
        places = torch.arange(new)[None] if position_ids is None else position_ids
        x = self.words(input_ids) + self.places(places)
        query, key, value = (layer(x).view(batch, new, 2, 8).transpose(1, 2) for layer in (self.query, self.key, self.value))
        key, value = cache.update(key, value, 0)
        total = key.shape[2]
        causal = torch.arange(total)[None] <= torch.arange(new)[:, None] + (total - new)
        mask = causal[None, None] & attention_mask[:, None, None].bool()
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, new, 16))
        return SimpleNamespace(logits=self.head(x), past_key_values=cache)


def one_layer() -> OneLayer:
    """The same weights every time, far from uniform."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(2)
        made = OneLayer()
        for parameter in made.parameters():
            nn.init.normal_(parameter, std=1.5 / parameter.shape[-1] ** 0.5)
    return made.eval()
