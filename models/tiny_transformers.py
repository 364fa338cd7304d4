"""Small random models of six transformers architectures, with plain tensors in and out: for matching and numerics, never accuracy.

Each factory gives (module, sample inputs) and is a model on the command line: `szilard rewrite szilard.models.tiny_transformers:bert`.
Sizes are odd where the architecture lets them be, the caches are off, and weights come from a fixed seed.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .wrappers import Speech, Text, TextPair, TextToText, Vision

SEED = 5
VOCABULARY = 97
TOKENS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

Made = tuple[nn.Module, dict[str, torch.Tensor]]


def _build(kind: str, configuration: str, settings: dict[str, Any], wrap: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """A model of class `kind` with random weights from SEED, widened so that attention and norms are far from uniform."""
    import transformers

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(SEED)
        model = getattr(transformers, kind)(getattr(transformers, configuration)(**settings))
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=1.3 / parameter.shape[-1] ** 0.5)
            elif torch.all(parameter == parameter.flatten()[0]):
                nn.init.normal_(parameter, mean=parameter.flatten()[0].item(), std=0.1)
    return wrap(model).eval()


def _ids(batch: int, length: int, seed: int = SEED) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def _mask(batch: int, length: int, short: int) -> torch.Tensor:
    """Ones [batch, length], the last row with `short` positions of padding at its end."""
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[-1, length - short :] = 0
    return mask


def _noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(SEED))


def bert() -> Made:
    """A BERT encoder, 2 layers of width 48 with 3 heads."""
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 120}
    module = _build("BertModel", "BertConfig", TOKENS | sizes, lambda model: TextPair(model, "last_hidden_state"))
    ids = _ids(2, 19)
    return module, {"input_ids": ids, "attention_mask": _mask(2, 19, 4), "token_type_ids": (ids > 50).long()}


def gpt2() -> Made:
    """A GPT-2 language model, 2 layers of width 48 with 3 heads."""
    sizes = {"n_embd": 48, "n_layer": 2, "n_head": 3, "n_positions": 64}
    module = _build("GPT2LMHeadModel", "GPT2Config", TOKENS | sizes, lambda model: Text(model, "logits"))
    return module, {"input_ids": _ids(2, 21), "attention_mask": _mask(2, 21, 5)}


def llama() -> Made:
    """A Llama language model, 2 layers of width 48 with 6 query and 2 key heads, SwiGLU of 104."""
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2}
    sizes |= {"intermediate_size": 104, "max_position_embeddings": 64}
    module = _build("LlamaForCausalLM", "LlamaConfig", TOKENS | sizes, lambda model: Text(model, "logits"))
    return module, {"input_ids": _ids(2, 17), "attention_mask": _mask(2, 17, 3)}


def vit() -> Made:
    """A vision transformer, images of 30 x 30 in patches of 6, 2 layers of width 48 with 4 heads, 11 classes."""
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 100}
    sizes |= {"image_size": 30, "patch_size": 6, "num_labels": 11}
    module = _build("ViTForImageClassification", "ViTConfig", sizes, lambda model: Vision(model, "logits"))
    return module, {"pixel_values": _noise(2, 3, 30, 30)}


def t5() -> Made:
    """A T5 encoder and decoder with gated GELU, 2 layers each of width 40 with 5 heads, relative positions as a bias."""
    sizes = {"d_model": 40, "d_kv": 8, "d_ff": 72, "num_layers": 2, "num_heads": 5, "decoder_start_token_id": 0}
    settings = TOKENS | sizes | {"feed_forward_proj": "gated-gelu"}
    module = _build("T5ForConditionalGeneration", "T5Config", settings, lambda model: TextToText(model, "logits"))
    return module, {"input_ids": _ids(2, 15), "attention_mask": _mask(2, 15, 2), "decoder_input_ids": _ids(2, 9, 6)}


def whisper() -> Made:
    """A Whisper encoder and decoder, 60 frames of 16 mel bins, 2 layers each of width 48 with 4 heads."""
    sizes = {"d_model": 48, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4}
    sizes |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "num_mel_bins": 16}
    sizes |= {"max_source_positions": 30, "max_target_positions": 24, "decoder_start_token_id": 1}
    settings = TOKENS | sizes | {"suppress_tokens": None, "begin_suppress_tokens": None}
    module = _build("WhisperForConditionalGeneration", "WhisperConfig", settings, lambda model: Speech(model, "logits"))
    return module, {"input_features": _noise(2, 16, 60), "decoder_input_ids": _ids(2, 7)}


FAMILIES: dict[str, Callable[[], Made]] = {
    "bert": bert,
    "gpt2": gpt2,
    "llama": llama,
    "vit": vit,
    "t5": t5,
    "whisper": whisper,
}
