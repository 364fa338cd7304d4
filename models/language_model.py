"""A causal language model as the two plain functions that its ecosystem runs: a prefill, and a step of decoding with key/value caches.

Positions are counted from the mask, as transformers does when it generates, so that padding may stand on either side of a text.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicLayer

from .cache_names import PARTS, past_names, present_names

PROBED = 3
"""Tokens on which a model shows what its cache is made of."""


class _Joined(DynamicLayer):
    """A layer that keeps what it is first given: transformers' own joins it to an empty tensor of another rank, which exporters refuse."""

    keys: Any
    values: Any
    is_initialized: bool

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> tuple[Any, Any]:
        if self.is_initialized:
            key_states = torch.cat([self.keys, key_states], dim=-2)
            value_states = torch.cat([self.values, value_states], dim=-2)
        self.keys, self.values, self.is_initialized = key_states, value_states, True
        return self.keys, self.values


class Prefill(nn.Module):
    """input_ids, attention_mask (int64 [B, L]) -> {"logits": [B, L, V], "present.N.key": [B, H, L, D], "present.N.value": ...}."""

    def __init__(self, model: Any, layers: int) -> None:
        super().__init__()
        self.model = model
        self.layers = layers
        self.counts_positions = "position_ids" in inspect.signature(model.forward).parameters

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        return self._call(input_ids, attention_mask, ())

    def _call(self, ids: torch.Tensor, mask: torch.Tensor, past: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        cache = Cache(layers=[_Joined() for _ in range(self.layers)])
        for layer, key, value in zip(cache.layers, past[::2], past[1::2], strict=False):
            layer.update(key, value)
        positions = {}
        if self.counts_positions:
            positions["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        found = self.model(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, return_dict=True, **positions
        )
        caches = (getattr(layer, f"{part}s") for layer in cache.layers for part in PARTS)
        return {"logits": found.logits, **dict(zip(present_names(self.layers), caches, strict=True))}


class Decode(Prefill):
    """input_ids [B, L], attention_mask [B, P + L] (int64) and the caches [B, H, P, D], under `parameter` of their names -> {"logits":
    [B, L, V], "present.N.key": [B, H, P + L, D], "present.N.value": ...}."""

    def forward(  # type: ignore[override]
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **past: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        return self._call(input_ids, attention_mask, [past[parameter(name)] for name in past_names(self.layers)])


def parameter(name: str) -> str:
    """The name of a tensor as Python can have it: "past_key_values_0_key"."""
    return name.replace(".", "_")


def cache_layers(model: Any) -> tuple[int, str]:
    """(the layers of a transformers model that keep keys and values, ""), or (0, why its cache is something else), looked up in the cache
    that it makes for itself."""
    ids = torch.zeros(1, PROBED, dtype=torch.int64)
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True, return_dict=True)
    cache = getattr(found, "past_key_values", None)
    layers = list(getattr(cache, "layers", ()))
    if not layers:
        return 0, "it gives no cache of keys and values"
    for index, layer in enumerate(layers):
        shapes = [tuple(getattr(getattr(layer, f"{part}s", None), "shape", ())) for part in PARTS]
        if type(layer) is not DynamicLayer:
            return (
                0,
                f"layer {index} of its cache is a {type(layer).__name__}, which is more than keys and values of all positions",
            )
        if any(len(shape) != 4 or shape[0] != 1 or shape[2] != PROBED for shape in shapes):
            return 0, f"layer {index} of its cache does not have the form [batch, heads, positions, width]"
    return len(layers), ""
