"""A small causal language model that also runs with a cache: what a decode step computes, reads and keeps is counted on the real thing."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from szilard.cost_model.program import Program
from szilard.rewriter.trace_torch import trace_module

VOCABULARY, WIDTH, HEADS, KV_HEADS, HEAD_DIM, HIDDEN, LAYERS = 61, 40, 6, 2, 10, 72, 2
SPELLINGS = ("sdpa_causal", "sdpa_mask", "by_hand", "window")
"""The first has no spelling for a step: an is_causal attention of one query over many keys would see the first key alone."""
WINDOW = 7

Cache = list[tuple[torch.Tensor, torch.Tensor]]


class Layer(nn.Module):
    """Pre-norm attention with grouped keys, then an MLP. x [B, N, WIDTH]; `past` holds keys and values [B, KV_HEADS, C, HEAD_DIM]."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.spelling = spelling
        self.norm, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query = nn.Linear(WIDTH, HEADS * HEAD_DIM, bias=False)
        self.key_value = nn.Linear(WIDTH, 2 * KV_HEADS * HEAD_DIM, bias=False)
        self.out = nn.Linear(HEADS * HEAD_DIM, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, HIDDEN, bias=False), nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x, visible, past=None):
        batch, length, _ = x.shape
        normed = self.norm(x)
        q = self.query(normed).view(batch, length, HEADS, HEAD_DIM).transpose(1, 2)
        k, v = self.key_value(normed).view(batch, length, 2 * KV_HEADS, HEAD_DIM).transpose(1, 2).chunk(2, 1)
        kept = (k, v) if past is None else (torch.cat([past[0], k], 2), torch.cat([past[1], v], 2))
        k, v = (each.repeat_interleave(HEADS // KV_HEADS, 1) for each in kept)
        x = x + self.out(self.attend(q, k, v, visible).transpose(1, 2).reshape(batch, length, -1))
        return x + self.down(torch.relu(self.up(self.norm2(x)))), kept

    def attend(self, q, k, v, visible):
        if visible is None:
            return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        if self.spelling == "sdpa_mask":
            return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        scores = (q @ k.transpose(-1, -2)) / HEAD_DIM**0.5
        return torch.softmax(scores.masked_fill(~visible, -1e9), -1) @ v


class TinyDecoder(nn.Module):
    """input_ids [B, N] -> logits [B, N, VOCABULARY]. `spelling` is one of `SPELLINGS`; "window" sees WINDOW positions."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.spelling = spelling
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Layer(spelling) for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def visible(self, length: int, earlier: int = 0):
        if self.spelling == "sdpa_causal":
            return None
        places = torch.arange(earlier + length)
        behind = places[earlier:, None] - places[None, :]
        seen = behind >= 0
        return seen & (behind < WINDOW) if self.spelling == "window" else seen

    def forward(self, input_ids):
        x, visible = self.embed(input_ids), self.visible(input_ids.shape[1])
        for layer in self.layers:
            x, _ = layer(x, visible)
        return self.head(x)

    def step(self, input_ids, past: Cache) -> tuple[torch.Tensor, Cache]:
        """Logits of new tokens [B, n] behind a cache, and the cache that results."""
        x, visible = self.embed(input_ids), self.visible(input_ids.shape[1], past[0][0].shape[2])
        kept = []
        for layer, each in zip(self.layers, past, strict=True):
            x, grown = layer(x, visible, each)
            kept.append(grown)
        return self.head(x), kept


def empty_cache(batch: int) -> Cache:
    """A cache of no positions."""
    return [(torch.zeros(batch, KV_HEADS, 0, HEAD_DIM), torch.zeros(batch, KV_HEADS, 0, HEAD_DIM)) for _ in range(LAYERS)]


@cache
def traced(spelling: str) -> Program:
    """The program of a spelling, traced without a cache."""
    return trace_module(
        TinyDecoder(spelling).eval(), {"input_ids": torch.arange(22).reshape(2, 11) % VOCABULARY}, source=spelling
    )


def counted_step(batch: int, context: int, new: int = 1) -> tuple[float, float]:
    """(flops of matrix products, bytes of the cache afterwards) of one real step, spelled by hand so that every product is counted."""
    model = TinyDecoder("by_hand").eval()
    with torch.no_grad():
        ids = torch.zeros(batch, context, dtype=torch.int64)
        _, past = model.step(ids, empty_cache(batch))
        with FlopCounterMode(display=False) as counter:
            _, kept = model.step(ids[:, :new], past)
    return float(counter.get_total_flops()), float(sum(tensor.nbytes for pair in kept for tensor in pair))
