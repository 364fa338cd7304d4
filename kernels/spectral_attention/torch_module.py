"""Spectral sparse attention as a torch module. Its source text is what an emitted model.py carries, so it needs torch alone."""

from __future__ import annotations

import torch

from .prepare import SparsePrepared


class SpectralAttention(torch.nn.Module):
    """softmax(scale q k^T) v over the `budget` tiles of keys that matter most to each tile of queries, exactly, and over the mean key and
    mean value of every other tile, counted as often as it has keys. Queries [B, H, N, D], keys [B, H, S, D], values [B, H, S, Dv]."""

    query_codebook: torch.Tensor
    key_codebook: torch.Tensor

    def __init__(self, heads: int, leaves: tuple[int, int], width: int, tile: int, budget: int, scale: float) -> None:
        super().__init__()
        self.arguments = f"{heads}, {leaves}, {width}, tile={tile}, budget={budget}, scale={scale!r}"
        self.tile, self.budget, self.scale = tile, budget, scale
        self.register_buffer("query_codebook", torch.zeros(heads, leaves[0], width))
        self.register_buffer("key_codebook", torch.zeros(heads, leaves[1], width))

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        order, into_tiles = self.order(query, self.query_codebook), self.order(key, self.key_codebook)
        queries, query_counts, _ = self.tiles(query, order)
        keys, counts, key_means = self.tiles(key, into_tiles)
        values, _, value_means = self.tiles(value, into_tiles)
        scores = self.scores(queries.sum(2) / query_counts[:, None] * self.scale, keys, counts, key_means)
        chosen = scores.topk(min(self.budget, scores.shape[-1]), dim=-1).indices

        # Each tile of queries reads the rows of its tiles of keys, and then all means, from one table.
        blocks, tiles = scores.shape[1:]
        place = torch.arange(self.tile, device=query.device)
        exact = (chosen[..., None] * self.tile + place).flatten(2)
        means = torch.arange(tiles, device=query.device).expand(scores.shape) + tiles * self.tile
        rows = torch.cat([exact, means], dim=-1)
        held = torch.zeros(tiles, self.tile, dtype=query.dtype, device=query.device)
        held = held.masked_fill(place >= counts[:, None], -torch.inf)[chosen].flatten(2)
        bias = torch.cat([held, counts.log().expand(scores.shape).scatter(-1, chosen, -torch.inf)], dim=-1)
        columns = rows.shape[-1]
        seen_keys, seen_values = (
            self.rows(torch.cat([each.flatten(1, 2), mean], dim=1), rows.flatten(1)).unflatten(1, (blocks, columns))
            for each, mean in ((keys, key_means), (values, value_means))
        )
        output = torch.nn.functional.scaled_dot_product_attention(
            queries, seen_keys, seen_values, attn_mask=bias[:, :, None], scale=self.scale
        )
        return self.rows(output.flatten(1, 2), order.argsort(dim=-1)).unflatten(0, query.shape[:2])

    def order(self, x: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
        codebook = codebook.to(x.dtype)
        nearness = x @ codebook.transpose(-1, -2) - codebook.square().sum(-1)[:, None] / 2
        return nearness.argmax(dim=-1).argsort(dim=-1, stable=True).flatten(0, 1)

    def tiles(self, x: torch.Tensor, order: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        length = x.shape[2]
        ordered = torch.nn.functional.pad(self.rows(x.flatten(0, 1), order), (0, 0, 0, -length % self.tile))
        cut = ordered.unflatten(1, (-1, self.tile))
        counts = (length - self.tile * torch.arange(cut.shape[1], device=x.device)).clamp(max=self.tile).to(x.dtype)
        return cut, counts, cut.sum(2) / counts[:, None]

    @staticmethod
    def scores(centres: torch.Tensor, keys: torch.Tensor, counts: torch.Tensor, key_means: torch.Tensor) -> torch.Tensor:
        logits = (centres @ keys.flatten(1, 2).transpose(-1, -2)).unflatten(-1, keys.shape[1:3])
        mean, square = centres @ key_means.transpose(-1, -2), logits.square().sum(-1) / counts
        variance = torch.maximum(square - mean.square(), 1e-6 * square + torch.finfo(keys.dtype).tiny)
        return mean + (counts * variance).log()

    @staticmethod
    def rows(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        start = torch.arange(x.shape[0], device=x.device)[:, None] * x.shape[1]
        return x.flatten(0, 1)[index + start]

    def extra_repr(self) -> str:
        return self.arguments


def build(prepared: SparsePrepared) -> SpectralAttention:
    """A module that runs `prepared`; `repr` of it is the expression that makes it again, empty, and its state dict holds the codebooks."""
    heads, _, width = prepared.query_codebook.shape
    leaves = (prepared.query_codebook.shape[1], prepared.key_codebook.shape[1])
    module = SpectralAttention(heads, leaves, width, prepared.tile, prepared.budget, prepared.scale)
    module.query_codebook.copy_(torch.from_numpy(prepared.query_codebook))
    module.key_codebook.copy_(torch.from_numpy(prepared.key_codebook))
    return module.eval()
