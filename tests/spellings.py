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
}  # fmt: skip

STORED_HEADS = {"repeated_in_turn": 2}
"""How many key heads the projection makes, where the finder must not see that far."""

REFUSED = {
    # name: (core, words of the refusal)
    "other_axis": (lambda q, k, v, c: torch.softmax(q @ k.mT * SCALE, -2) @ v, "runs over axis -2"),
    "weights_scaled": (lambda q, k, v, c: (softmax(q @ k.mT * SCALE) * 0.5) @ v, "changes the weights after the softmax"),
    "mask_scaled": (lambda q, k, v, c: softmax((q @ k.mT + c.float()) * SCALE) @ v, "a mask that is scaled afterwards"),
    "learned_scale": (lambda q, k, v, c: softmax(q @ k.mT * v.mean()) @ v, "not one constant number"),
    "two_masks": (lambda q, k, v, c: softmax(q @ k.mT * SCALE + bias(c) + q.mean()) @ v, "second mask"),
    "weights_out": (lambda q, k, v, c: (softmax(q @ k.mT * SCALE) @ v, softmax(q @ k.mT * SCALE)), "output of the model"),
    "weights_read": (lambda q, k, v, c: (lambda p: p @ v + p.mean())(softmax(q @ k.mT * SCALE)), "read more than once"),
    "scores_read": (lambda q, k, v, c: (lambda s: softmax(s) @ v + s.mean())(q @ k.mT), "shares"),
    "sink": (lambda q, k, v, c: softmax(torch.cat([q @ k.mT * SCALE, q[..., :1]], -1))[..., :-1] @ v, "an attention sink"),
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
