"""One attention layer written in many ways, and what the finders should make of each."""

import math

import torch
import torch.nn.functional as F
from torch import nn

BATCH, LENGTH, WIDTH, HEADS = 3, 7, 24, 4
DEPTH = WIDTH // HEADS
SCALE = DEPTH**-0.5


class Layer(nn.Module):
    """q, k, v projections, `core(q, k, v, causal)` on [B, H, N, D], an output projection."""

    def __init__(self, core, kv_heads: int = HEADS) -> None:
        super().__init__()
        self.core, self.kv_heads = core, kv_heads
        self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, DEPTH * kv_heads)
        self.value, self.out = nn.Linear(WIDTH, DEPTH * kv_heads), nn.Linear(WIDTH, WIDTH)
        self.register_buffer("causal", torch.ones(LENGTH, LENGTH).tril().bool())

    def forward(self, x):
        q, k, v = (f(x).view(BATCH, LENGTH, -1, DEPTH).transpose(1, 2) for f in (self.query, self.key, self.value))
        result = self.core(q, k, v, self.causal)
        y, *more = result if isinstance(result, tuple) else (result,)
        return (self.out(y.transpose(1, 2).reshape(BATCH, LENGTH, WIDTH)), *more)


class MultiHead(nn.Module):
    """torch's own layer; asked for its weights it folds batch and heads into one axis from the start."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x):
        return self.layer(x, x, x)[0]


def softmax(scores):
    return torch.softmax(scores, -1)


def flat(x):
    return x.reshape(-1, *x.shape[2:])


def repeat(x, times: int = 2):
    batch, heads, length, depth = x.shape
    return x[:, :, None].expand(batch, heads, times, length, depth).reshape(batch, heads * times, length, depth)


def bias(causal):
    return torch.zeros(LENGTH, LENGTH).masked_fill(~causal, -1e9)


def _grouped(q, k, v, causal):
    q = q.reshape(BATCH, 2, 2, LENGTH, DEPTH)
    return (softmax(q @ k.unsqueeze(2).mT * SCALE) @ v.unsqueeze(2)).reshape(BATCH, HEADS, LENGTH, DEPTH)


def slopes():
    return torch.linspace(0.1, 0.4, HEADS)[:, None, None] * torch.arange(LENGTH)


def _alibi(q, k, v, causal):
    """A bias [B * H, 1, N] of heads folded into the batch, in the product itself, then a mask on top."""
    distances = slopes().expand(BATCH, HEADS, 1, LENGTH).reshape(BATCH * HEADS, 1, LENGTH)
    scores = torch.baddbmm(distances, flat(q), flat(k).mT, alpha=SCALE).view(BATCH, HEADS, LENGTH, LENGTH)
    return softmax(scores + bias(causal)) @ v


def _disentangled(q, k, v, causal):
    """A bias that is itself a product with the queries, gathered by distance, and a boolean mask."""
    table = torch.linspace(-1, 1, 2 * LENGTH * DEPTH).view(2 * LENGTH, DEPTH)
    places = (torch.arange(LENGTH)[:, None] - torch.arange(LENGTH) + LENGTH).expand(BATCH, HEADS, -1, -1)
    distances = torch.gather(q @ table.mT, -1, places)
    return softmax((q @ k.mT * SCALE + distances).masked_fill(~causal, torch.finfo(q.dtype).min)) @ v


def _sink(q, k, v, causal):
    sinks = torch.linspace(-1, 1, HEADS).reshape(1, -1, 1, 1).expand(BATCH, -1, LENGTH, -1)
    scores = torch.cat([q @ k.mT * SCALE + bias(causal), sinks], -1)
    return softmax(scores - scores.max(-1, keepdim=True).values)[..., :-1] @ v


def _sink_cut_wrongly(q, k, v, causal):
    return softmax(torch.cat([q @ k.mT * SCALE, q[..., :1]], -1))[..., 1:] @ v


def _cached(q, k, v, causal):
    """Keys and values of earlier positions before those of this call, and one mask over all."""
    old_k, old_v = k.flip(2) * 0.5, v.flip(2) * 0.5
    mask = torch.cat([torch.zeros(LENGTH, LENGTH), bias(causal)], -1)
    return softmax(q @ torch.cat([old_k, k], 2).mT * SCALE + mask) @ torch.cat([old_v, v], 2)


def _baddbmm(q, k, v, causal):
    scores = torch.baddbmm(bias(causal)[None], flat(q), flat(k).mT, alpha=SCALE)
    return torch.bmm(softmax(scores), flat(v)).view(q.shape)


HITS = {
    # name: (core, kv_heads, form, mask_kind or "")
    "sdpa": (lambda q, k, v, c: F.scaled_dot_product_attention(q, k, v), 4, "operator", ""),
    "sdpa_causal": (lambda q, k, v, c: F.scaled_dot_product_attention(q, k, v, is_causal=True), 4, "operator", ""),
    "sdpa_mask": (lambda q, k, v, c: F.scaled_dot_product_attention(q, k, v, attn_mask=c), 4, "operator", "boolean"),
    "sdpa_gqa": (lambda q, k, v, c: F.scaled_dot_product_attention(q, k, v, enable_gqa=True), 2, "operator", ""),
    "sdpa_repeated": (lambda q, k, v, c: F.scaled_dot_product_attention(q, repeat(k), repeat(v)), 2, "operator", ""),
    "times": (lambda q, k, v, c: softmax(q @ k.mT * SCALE) @ v, 4, "walk", ""),
    "divided": (lambda q, k, v, c: softmax(q @ k.mT / math.sqrt(DEPTH)) @ v, 4, "walk", ""),
    "scaled_before": (lambda q, k, v, c: softmax((q * SCALE) @ k.mT) @ v, 4, "walk", ""),
    "masked_fill": (lambda q, k, v, c: softmax((q @ k.mT * SCALE).masked_fill(c == 0, -math.inf)) @ v, 4, "walk", "boolean_inverted"),
    "masked_fill_not": (lambda q, k, v, c: softmax((q @ k.mT * SCALE).masked_fill(~c, -1e9)) @ v, 4, "walk", "boolean"),
    "float_softmax": (lambda q, k, v, c: torch.softmax(q @ k.mT * SCALE, -1, dtype=torch.float32).to(q.dtype) @ v, 4, "walk", ""),
    "einsum": (
        lambda q, k, v, c: torch.einsum("bhij,bhjd->bhid", softmax(torch.einsum("bhid,bhjd->bhij", q, k) * SCALE), v), 4, "walk", ""
    ),
    "bmm": (lambda q, k, v, c: torch.bmm(softmax(torch.bmm(flat(q), flat(k).mT) * SCALE), flat(v)).view(q.shape), 4, "walk", ""),
    "baddbmm": (_baddbmm, 4, "walk", "additive"),
    "grouped": (_grouped, 2, "walk", ""),
    "repeated": (lambda q, k, v, c: softmax(q @ repeat(k).mT * SCALE) @ repeat(v), 2, "walk", ""),
    "repeated_in_turn": (lambda q, k, v, c: softmax(q @ k.repeat(1, 2, 1, 1).mT * SCALE) @ v.repeat(1, 2, 1, 1), 4, "walk", ""),
    "one_key_head": (lambda q, k, v, c: softmax(q @ k.mT * SCALE) @ v, 1, "walk", ""),
    "softcap": (lambda q, k, v, c: softmax(torch.tanh(q @ k.mT * SCALE / 30) * 30 + bias(c)) @ v, 4, "walk", "additive"),
    "mask_scaled": (lambda q, k, v, c: softmax((q @ k.mT + bias(c)) * SCALE) @ v, 4, "walk", "several"),
    "mask_subtracted": (lambda q, k, v, c: softmax(q @ k.mT * SCALE - 1e5 * (~c).float()) @ v, 4, "walk", "several"),
    "mask_times_alpha": (
        lambda q, k, v, c: softmax(torch.add(bias(c), q @ k.mT, alpha=SCALE)) @ v, 4, "walk", "additive"
    ),
    "two_masks": (lambda q, k, v, c: softmax(q @ k.mT * SCALE + bias(c) + q.mean()) @ v, 4, "walk", "several"),
    "bias_then_boolean": (
        lambda q, k, v, c: softmax((q @ k.mT * SCALE + slopes()).masked_fill(~c, -1e9)) @ v, 4, "walk", "several"
    ),
    "alibi": (_alibi, 4, "walk", "several"),
    "disentangled": (_disentangled, 4, "walk", "several"),
    "sink": (_sink, 4, "walk", "additive"),
    "cached": (_cached, 4, "walk", "additive"),
}  # fmt: skip

STORED_HEADS = {"repeated_in_turn": 2}
"""How many key heads the projection makes, where the finder must not see that far."""

REFUSED = {
    # name: (core, words of the refusal)
    "other_axis": (lambda q, k, v, c: torch.softmax(q @ k.mT * SCALE, -2) @ v, "runs over axis -2"),
    "weights_scaled": (lambda q, k, v, c: (softmax(q @ k.mT * SCALE) * 0.5) @ v, "changes the weights after the softmax"),
    "low_and_mask": (
        lambda q, k, v, c: softmax((q @ k.mT * SCALE).masked_fill(~c, -1e4) + bias(c)) @ v, "after a number took the place"
    ),
    "mask_before_cap": (lambda q, k, v, c: softmax(torch.tanh(q @ k.mT + bias(c)) * 30) @ v, "before the softcap"),
    "learned_scale": (lambda q, k, v, c: softmax(q @ k.mT * v.mean()) @ v, "not one constant number"),
    "weights_out": (lambda q, k, v, c: (softmax(q @ k.mT * SCALE) @ v, softmax(q @ k.mT * SCALE)), "output of the model"),
    "weights_read": (lambda q, k, v, c: (lambda p: p @ v + p.mean())(softmax(q @ k.mT * SCALE)), "read more than once"),
    "scores_read": (lambda q, k, v, c: (lambda s: softmax(s) @ v + s.mean())(q @ k.mT), "shares"),
    "sink_cut_wrongly": (_sink_cut_wrongly, "no attention sink"),
    "two_columns": (lambda q, k, v, c: softmax(torch.cat([q @ k.mT, q[..., :2]], -1))[..., :-2] @ v, "no attention sink"),
    "sink_scaled": (lambda q, k, v, c: softmax(torch.cat([q @ k.mT, q[..., :1]], -1) * SCALE)[..., :-1] @ v, "scaled or masked"),
    "between": (lambda q, k, v, c: softmax(torch.relu(q @ k.mT)) @ v, "relu"),
}  # fmt: skip


class Layers(nn.Module):
    """Every spelling on the same x, so that one trace serves all; attribute = name."""

    def __init__(self) -> None:
        super().__init__()
        for name, (core, kv_heads, _, _) in HITS.items():
            setattr(self, name, Layer(core, STORED_HEADS.get(name, kv_heads)))
        for name, (core, _) in REFUSED.items():
            setattr(self, name, Layer(core))
        self.multi_head = MultiHead()

    def forward(self, x):
        return tuple(layer(x) for layer in self.children())


def sample() -> torch.Tensor:
    return torch.randn(BATCH, LENGTH, WIDTH, generator=torch.Generator().manual_seed(3))
