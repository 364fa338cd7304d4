"""The networks that judge a card's profile, built from their configurations with random weights: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

Inputs = Mapping[str, torch.Tensor]
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
SMOLLM2 = {
    "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536,
    "vocab_size": 49152, "tie_word_embeddings": True, "max_position_embeddings": 8192,
}  # fmt: skip
RESNET = ((64, 3), (128, 4), (256, 6), (512, 3))


class Encoder(nn.Module):
    """MiniLM (6 layers of BERT): input_ids [B, N] -> [B, N, 384]."""

    def __init__(self, **changes: int) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        self.model = BertModel(BertConfig(**{**MINILM, **changes}), add_pooling_layer=False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids).last_hidden_state


class Decoder(nn.Module):
    """A Llama of SmolLM2-135M's shape. A prefill gives the logits of the last of input_ids [B, N]; with the `keys` and `values` of all
    layers [L, B, 3, S, 64], a decode step of input_ids [B, 1] behind S positions."""

    def __init__(self, **changes: int) -> None:
        super().__init__()
        from transformers import LlamaConfig, LlamaForCausalLM

        self.model = LlamaForCausalLM(LlamaConfig(**{**SMOLLM2, **changes}))

    def forward(
        self, input_ids: torch.Tensor, keys: torch.Tensor | None = None, values: torch.Tensor | None = None
    ) -> torch.Tensor:
        from transformers import DynamicCache

        if keys is None or values is None:
            return self.model(input_ids=input_ids, use_cache=False, logits_to_keep=1).logits
        cache = DynamicCache()
        for layer, (key, value) in enumerate(zip(keys.unbind(0), values.unbind(0), strict=True)):
            cache.update(key, value, layer)
        return self.model(input_ids=input_ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits


class VisionTransformer(nn.Module):
    """ViT-B/16: pixels [B, 3, 224, 224] -> [B, 197, 768]."""

    def __init__(self, **changes: int) -> None:
        super().__init__()
        from transformers import ViTConfig, ViTModel

        self.model = ViTModel(ViTConfig(**changes), add_pooling_layer=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=pixels).last_hidden_state


class ConvNet(nn.Module):
    """A network like ResNet-50: a stem, four stages of bottlenecks, a mean and 1000 classes: pixels [B, 3, 224, 224] -> [B, 1000]."""

    def __init__(self, stages: tuple[tuple[int, int], ...] = RESNET) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        channels = stages[0][0]
        self.stem = _convolution(3, channels, 7, 2)
        for stage, (width, depth) in enumerate(stages):
            for index in range(depth):
                blocks.append(_Bottleneck(channels, width, 2 if stage and not index else 1))
                channels = 4 * width
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(channels, 1000)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.stem(pixels)), 3, 2, 1)
        return self.head(nn.functional.adaptive_avg_pool2d(self.blocks(x), 1).flatten(1))


class _Bottleneck(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.narrow, self.middle = _convolution(channels, width, 1, 1), _convolution(width, width, 3, stride)
        self.wide = _convolution(width, 4 * width, 1, 1)
        keeps = stride == 1 and channels == 4 * width
        self.shortcut = nn.Identity() if keeps else _convolution(channels, 4 * width, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.middle(torch.relu(self.narrow(x))))
        return torch.relu(self.wide(inner) + self.shortcut(x))


def _convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs))


def tokens(batch: int, length: int, device: str) -> torch.Tensor:
    """Random words, int64 [batch, length]."""
    return torch.randint(1000, 30000, (batch, length), device=device)


def pixels(batch: int, size: int, device: str, dtype: torch.dtype) -> torch.Tensor:
    """A normal image [batch, 3, size, size]."""
    return torch.randn(batch, 3, size, size, device=device, dtype=dtype)


def caches(layers: int, batch: int, length: int, device: str, dtype: torch.dtype) -> Inputs:
    """Normal keys and values of all layers of SmolLM2 [layers, batch, 3, length, 64]."""
    shape = (layers, batch, 3, length, 64)
    return {name: torch.randn(shape, device=device, dtype=dtype) for name in ("keys", "values")}
