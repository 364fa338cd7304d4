"""Twenty-four transformers architectures, tiny and random, with the number of attentions that each one's configuration says it has.

They are for finding attention and for numerics, never for accuracy. The count comes from the configuration alone: layers, of an encoder
and a decoder where there are two, with one attention over itself each and one over the encoder in each layer of a decoder.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .tiny_transformers import SEED, TOKENS, VOCABULARY
from .wrappers import Plain, Speech, Text, TextAndImage, TextToText, Vision

BATCH, LENGTH, TARGETS, PADDING = 2, 13, 7, 3

SPELLINGS = ("eager", "sdpa")
EAGER = SPELLINGS[:1]

Inputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Architecture:
    """`kind` and `configuration` are classes of transformers; `layers` gives the attentions that a configuration asks for, `spellings`
    are those of SPELLINGS that transformers has."""

    kind: str
    configuration: str
    settings: dict[str, Any]
    wrap: type[Plain] = Text
    output: str = "last_hidden_state"
    layers: Callable[[Any], int] = lambda config: config.num_hidden_layers
    spellings: tuple[str, ...] = SPELLINGS

    def attentions(self) -> int:
        """How many attentions the configuration asks for."""
        return self.layers(self._config("eager"))

    def module(self, spelling: str) -> nn.Module:
        """The model with random weights from SEED, widened so that attention is far from uniform; the same in every spelling."""
        import transformers

        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(SEED)
            model = getattr(transformers, self.kind)._from_config(self._config(spelling), attn_implementation=spelling)
            for name, parameter in model.named_parameters():
                if parameter.dim() > 1:
                    nn.init.normal_(parameter, std=1.3 / parameter.shape[-1] ** 0.5)
                elif name.endswith("sinks") or torch.all(parameter == parameter.flatten()[0]):
                    nn.init.normal_(parameter, mean=parameter.flatten()[0].item(), std=0.1)
        return self.wrap(model, self.output).eval()

    def inputs(self, batch: int = BATCH, length: int = LENGTH, seed: int = SEED, *, padded_first: bool = False) -> Inputs:
        """Named inputs of that many rows and tokens; the last row is padded at its end, or (`padded_first`) at its start, so that the
        first queries of a causal model see nothing at all."""
        draw = torch.Generator().manual_seed(seed)
        ids = torch.randint(3, VOCABULARY, (batch, length), generator=draw)
        mask = torch.ones(batch, length, dtype=torch.int64)
        mask[-1, slice(PADDING) if padded_first else slice(length - PADDING, length)] = 0
        words = {"input_ids": ids, "attention_mask": mask}
        targets = {"decoder_input_ids": torch.randint(3, VOCABULARY, (batch, TARGETS), generator=draw)}
        image = {"pixel_values": torch.randn(batch, 3, 18, 18, generator=draw)}
        sound = {"input_features": torch.randn(batch, 16, 60, generator=draw)}
        by_wrapper: dict[type[Plain], Inputs] = {
            Text: words,
            TextToText: words | targets,
            Vision: image,
            TextAndImage: words | image,
            Speech: sound | targets,
        }
        return by_wrapper[self.wrap]

    def _config(self, spelling: str) -> Any:
        import transformers

        return getattr(transformers, self.configuration)(**self.settings, attn_implementation=spelling)


def _both(encoder: str, decoder: str) -> Callable[[Any], int]:
    """Each layer of the encoder attends once, each of the decoder to itself and to the encoder."""
    return lambda config: int(getattr(config, encoder) + 2 * getattr(config, decoder))


_WORDS = TOKENS | {"max_position_embeddings": 64}
_LONG = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 80}
_ENCODER = _WORDS | _LONG
_GROUPED = _WORDS | _LONG | {"num_attention_heads": 6, "num_key_value_heads": 2}
_IMAGE = _LONG | {"image_size": 18, "patch_size": 6}
_LAYERS = _both("encoder_layers", "decoder_layers")

ARCHITECTURES: dict[str, Architecture] = {
    "bert": Architecture("BertModel", "BertConfig", _ENCODER),
    "distilbert": Architecture(
        "DistilBertModel", "DistilBertConfig",
        TOKENS | {"dim": 48, "n_layers": 3, "n_heads": 3, "hidden_dim": 80, "max_position_embeddings": 64},
    ),
    "roberta": Architecture("RobertaModel", "RobertaConfig", _ENCODER),
    "albert": Architecture("AlbertModel", "AlbertConfig", _ENCODER | {"embedding_size": 20}),
    "electra": Architecture("ElectraModel", "ElectraConfig", _ENCODER | {"embedding_size": 20}),
    "mpnet": Architecture("MPNetModel", "MPNetConfig", _ENCODER, spellings=EAGER),
    "deberta": Architecture(
        "DebertaV2Model", "DebertaV2Config",
        _ENCODER | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8, "type_vocab_size": 0},
        spellings=EAGER,
    ),
    "gpt2": Architecture("GPT2Model", "GPT2Config", TOKENS | {"n_embd": 48, "n_layer": 2, "n_head": 3, "n_positions": 64}),
    "gpt_neox": Architecture("GPTNeoXModel", "GPTNeoXConfig", _ENCODER),
    "opt": Architecture(
        "OPTModel", "OPTConfig",
        TOKENS | {"hidden_size": 48, "word_embed_proj_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "ffn_dim": 80,
                  "max_position_embeddings": 64},
    ),
    "llama": Architecture("LlamaModel", "LlamaConfig", _GROUPED),
    "qwen3": Architecture("Qwen3Model", "Qwen3Config", _GROUPED | {"head_dim": 12}),
    "mistral": Architecture("MistralModel", "MistralConfig", _GROUPED | {"sliding_window": 5}),
    "gemma2": Architecture("Gemma2Model", "Gemma2Config", _GROUPED | {"head_dim": 12, "sliding_window": 5}, spellings=EAGER),
    "gpt_oss": Architecture(
        "GptOssModel", "GptOssConfig",
        _GROUPED | {"head_dim": 12, "sliding_window": 5, "num_local_experts": 2, "num_experts_per_tok": 1,
                    "experts_implementation": "batched_mm",  # torch's exporter has no translation for grouped_mm
                    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        spellings=EAGER,
    ),
    "falcon": Architecture("FalconModel", "FalconConfig", _WORDS | _LONG | {"multi_query": True}),
    "bloom": Architecture("BloomModel", "BloomConfig", TOKENS | {"hidden_size": 48, "n_layer": 2, "n_head": 3}, spellings=EAGER),
    "mpt": Architecture(
        "MptModel", "MptConfig", TOKENS | {"d_model": 48, "n_layers": 2, "n_heads": 4, "max_seq_len": 64}, spellings=EAGER
    ),
    "phi": Architecture("PhiModel", "PhiConfig", _ENCODER),
    "t5": Architecture(
        "T5Model", "T5Config",
        TOKENS | {"d_model": 40, "d_kv": 8, "d_ff": 72, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 5,
                  "decoder_start_token_id": 0},
        TextToText, layers=_both("num_layers", "num_decoder_layers"),
    ),
    "bart": Architecture(
        "BartModel", "BartConfig",
        _WORDS | {"d_model": 48, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 3,
                  "decoder_attention_heads": 3, "encoder_ffn_dim": 80, "decoder_ffn_dim": 80, "forced_eos_token_id": None},
        TextToText, layers=_LAYERS,
    ),
    "whisper": Architecture(
        "WhisperModel", "WhisperConfig",
        TOKENS | {"d_model": 48, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 4,
                  "decoder_attention_heads": 4, "encoder_ffn_dim": 80, "decoder_ffn_dim": 80, "num_mel_bins": 16,
                  "max_source_positions": 30, "max_target_positions": 24, "decoder_start_token_id": 1,
                  "suppress_tokens": None, "begin_suppress_tokens": None},
        Speech, layers=_LAYERS,
    ),
    "vit": Architecture("ViTModel", "ViTConfig", _IMAGE, Vision),
    "clip": Architecture(
        "CLIPModel", "CLIPConfig",
        {"projection_dim": 20, "text_config": _ENCODER | {"eos_token_id": 2}, "vision_config": _IMAGE},
        TextAndImage, "logits_per_image",
        lambda config: int(config.text_config.num_hidden_layers + config.vision_config.num_hidden_layers),
    ),
}  # fmt: skip
