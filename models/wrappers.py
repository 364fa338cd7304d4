"""Transformers models as plain functions of tensors: named tensors in, one tensor out, no cache and no output classes."""

from typing import Any

import torch
from torch import nn


class Plain(nn.Module):
    """Holds a transformers model, its caches switched off, and the name of the one output that is wanted."""

    def __init__(self, model: Any, output: str) -> None:
        super().__init__()
        self.model = model
        self.output = output
        model.config.use_cache = False

    def _call(self, **inputs: torch.Tensor) -> torch.Tensor:
        return getattr(self.model(**inputs, return_dict=True), self.output)


class Text(Plain):
    """input_ids, attention_mask (int64 [B, L]) -> hidden state [B, L, D] or logits [B, L, V]."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self._call(input_ids=input_ids, attention_mask=attention_mask)


class TextPair(Plain):
    """input_ids, attention_mask, token_type_ids (int64 [B, L]) -> hidden state [B, L, D] or logits."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> torch.Tensor:
        return self._call(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)


class Vision(Plain):
    """pixel_values (float32 [B, C, H, W]) -> logits [B, classes] or hidden state [B, L, D]."""

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self._call(pixel_values=pixel_values)


class TextToText(Plain):
    """input_ids, attention_mask (int64 [B, L]), decoder_input_ids (int64 [B, T]) -> [B, T, V or D]."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, decoder_input_ids: torch.Tensor) -> torch.Tensor:
        return self._call(input_ids=input_ids, attention_mask=attention_mask, decoder_input_ids=decoder_input_ids)


class Speech(Plain):
    """input_features (float32 [B, mel bins, frames]), decoder_input_ids (int64 [B, T]) -> [B, T, V or D]."""

    def forward(self, input_features: torch.Tensor, decoder_input_ids: torch.Tensor) -> torch.Tensor:
        return self._call(input_features=input_features, decoder_input_ids=decoder_input_ids)


class TextAndImage(Plain):
    """input_ids, attention_mask (int64 [B, L]), pixel_values (float32 [I, C, H, W]) -> similarities [I, B]."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
        return self._call(input_ids=input_ids, attention_mask=attention_mask, pixel_values=pixel_values)
