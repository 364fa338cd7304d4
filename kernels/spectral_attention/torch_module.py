"""Spectral sparse attention as a torch module. Its source text is what an emitted model.py carries, so it needs torch alone."""

from __future__ import annotations

import torch

from .prepare import SparsePrepared


class SpectralAttention(torch.nn.Module):
    """softmax(scale q k^T) v: exact on the `budget` tiles of keys (one number, or one a head) that matter most to each tile of queries,
    to second order on the mean key and mean value of every other tile. Queries [B, H, N, D], keys [B, Hkv, S, D], values [B, Hkv, S, Dv],
    mask [1 or B, S] (True where a key counts) -> [B, H, N, Dv]. Computes in float32; no N x S matrix is made. Fewer than `dense_below` keys
    are dense attention."""

    query_codebook: torch.Tensor
    key_codebook: torch.Tensor

    def __init__(
        self,
        heads: int,
        leaves: tuple[int, int],
        width: int,
        tile: int,
        budget: int | tuple[int, ...],
        scale: float,
        kv_heads: int | None = None,
        key_tile: int | None = None,
        dense_below: int = 0,
    ) -> None:
        super().__init__()
        kv_heads, key_tile = kv_heads or heads, key_tile or tile
        self.arguments = f"{heads}, {leaves}, {width}, tile={tile}, budget={budget}, scale={scale!r}"
        self.arguments += f", kv_heads={kv_heads}, key_tile={key_tile}, dense_below={dense_below}"
        self.tile, self.key_tile, self.scale, self.dense_below = tile, key_tile, scale, dense_below
        self.budgets = [budget] * heads if isinstance(budget, int) else list(budget)
        self.register_buffer("query_codebook", torch.zeros(heads, leaves[0], width))
        self.register_buffer("key_codebook", torch.zeros(kv_heads, leaves[1], width))

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        if mask is not None:
            mask = mask.expand(query.shape[0], -1)
        if key.shape[2] < self.dense_below:
            hidden = None if mask is None else torch.where(mask, 0.0, -1e30).to(query.dtype)[:, None, None]
            return torch.nn.functional.scaled_dot_product_attention(
                query, key, value, hidden, scale=self.scale, enable_gqa=True
            )
        tiles = self.tile, self.key_tile
        return self.attention(query, key, value, self.query_codebook, self.key_codebook, mask, self.scale, tiles, self.budgets)

    @classmethod
    def attention(
        cls,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        query_codebook: torch.Tensor,
        key_codebook: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float,
        tiles: tuple[int, int],
        budgets: list[int],
    ) -> torch.Tensor:
        """Head by head on a CPU, so that all of a head stays in the cache; all at once elsewhere if the budgets are equal."""
        heads, group = query.shape[1], query.shape[1] // key.shape[1]
        step = 1 if query.device.type == "cpu" or len(set(budgets)) > 1 else heads
        found = []
        for head in range(0, heads, step):
            own, shared = slice(head, head + step), slice(head // group, (head + step - 1) // group + 1)
            order, counts = cls.order(query[:, own], query_codebook[own], None, tiles[0])
            queries, centres = cls.cut(query[:, own].float() * scale, order, counts, tiles[0])
            if head % group == 0:
                into_tiles, key_counts = cls.order(key[:, shared], key_codebook[shared], mask, tiles[1])
                of_keys = [
                    x for each in (key, value) for x in cls.cut(each[:, shared].float(), into_tiles, key_counts, tiles[1])
                ]
                if step > 1:
                    of_keys = [x.repeat_interleave(group, dim=1) for x in of_keys]
            output = cls.attend(queries, centres, of_keys, key_counts, budgets[head])
            places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
            found.append(cls.rows(output.flatten(2, 3), torch.zeros_like(order).scatter(-1, order, places)))
        return torch.cat(found, dim=1).to(query.dtype)

    @classmethod
    def order(
        cls, x: torch.Tensor, codebook: torch.Tensor, mask: torch.Tensor | None, tile: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The order by nearest leaf [B, H, N], rows out of the mask last, and how many rows each tile holds [B, 1, tiles]."""
        batch, heads, length, _ = x.shape
        codebook = codebook.float().expand(batch, -1, -1, -1).flatten(0, 1)
        offset = -codebook.square().sum(-1)[:, None] / 2
        nearness = torch.baddbmm(offset, x.float().flatten(0, 1), codebook.transpose(-1, -2))
        leaf, total = nearness.argmax(dim=-1).view(batch, heads, length), torch.full((batch, 1, 1), length, device=x.device)
        if mask is not None:
            leaf, total = leaf.masked_fill(~mask[:, None], codebook.shape[1]), mask.sum(-1)[:, None, None]
        starts = tile * torch.arange((length + tile - 1) // tile, device=x.device)
        return leaf.argsort(dim=-1, stable=True), (total - starts).clamp(0, tile)

    @classmethod
    def cut(cls, x: torch.Tensor, order: torch.Tensor, counts: torch.Tensor, tile: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows in order as tiles [B, H, tiles, tile, D], zero where a tile holds none, and their means [B, H, tiles, D]."""
        order = torch.nn.functional.pad(order, (0, counts.shape[-1] * tile - x.shape[2]))
        empty = torch.arange(tile, device=x.device)[:, None] >= counts[..., None, None]
        rows = cls.rows(x, order).unflatten(2, (-1, tile)).masked_fill_(empty, 0.0)
        return rows, rows.sum(3) / counts.clamp(min=1)[..., None]

    @classmethod
    def attend(
        cls,
        queries: torch.Tensor,
        centres: torch.Tensor,
        of_keys: list[torch.Tensor],
        counts: torch.Tensor,
        budget: int,
    ) -> torch.Tensor:
        """Tiles of scaled queries [B, h, I, tile, D] against tiles of keys [B, h, J, key tile, D], their means, those of values, theirs."""
        keys, key_means, values, value_means = of_keys
        batch, heads, blocks, rows, _ = queries.shape
        tiles, size = keys.shape[2:4]
        never = -1e30  # exp of it is zero, and no difference of two is NaN, in the gradient neither.
        many = counts.clamp(min=1)[:, :, None]
        log_count = many.float().log().masked_fill(counts[:, :, None] == 0, never)
        logits = (centres @ keys.flatten(2, 3).transpose(-1, -2)).unflatten(-1, (tiles, size))
        mean, square = centres @ key_means.transpose(-1, -2), logits.square().sum(-1) / many
        variance = torch.maximum(square - mean.square(), 1e-6 * square + torch.finfo(torch.float32).tiny)
        chosen = (mean + log_count + variance.log()).topk(min(budget, tiles), dim=-1).indices
        bias = (log_count + (variance / 2).log1p()).scatter(-1, chosen, never)
        share = torch.where(bias > never / 2, (mean + bias).softmax(dim=-1), 0.0)

        # The first-order term: what keys and values of a tile have in common beyond their means, pooled for each tile of queries.
        centred = (keys - key_means[..., None, :]).transpose(-1, -2)
        first_order = (centred @ values / many.transpose(-1, -2)[..., None]).flatten(3)
        first_order = (share @ first_order).unflatten(-1, (keys.shape[-1], values.shape[-1]))

        # One product for each tile of queries with the keys that it takes, one for each head with all means.
        start = tiles * torch.arange(batch * heads, device=chosen.device).view(batch, heads, 1, 1)
        places = (chosen + start).flatten()
        near_keys, near_values = (
            x.flatten(0, 2).index_select(0, places).view(batch * heads * blocks, -1, x.shape[-1]) for x in (keys, values)
        )
        empty = torch.arange(size, device=counts.device) >= counts[..., None]
        held = torch.zeros(empty.shape, device=counts.device).masked_fill(empty, never).expand(batch, heads, tiles, size)
        held = held.flatten(0, 2).index_select(0, places).view(batch * heads * blocks, 1, -1)
        near = torch.baddbmm(held, queries.flatten(0, 2), near_keys.transpose(-1, -2))
        far = (queries.flatten(2, 3) @ key_means.transpose(-1, -2)).unflatten(2, (blocks, rows)) + bias[..., None, :]
        weights = torch.cat([near, far.flatten(0, 2)], dim=-1).softmax(dim=-1)
        near, far = weights.split([near.shape[-1], tiles], dim=-1)
        far = far.unflatten(0, (batch, heads, blocks))
        output = (near @ near_values).unflatten(0, (batch, heads, blocks))
        output = output + (far.flatten(2, 3) @ value_means).unflatten(2, (blocks, rows))
        return output + far.sum(-1, keepdim=True) * (queries @ first_order)

    @staticmethod
    def rows(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Rows of `x` [B, H, N, D] by `index` [B, H, M] of their head: whole rows of one table."""
        start = x.shape[2] * torch.arange(x.shape[0] * x.shape[1], device=x.device).view(*x.shape[:2], 1)
        return x.flatten(0, 2).index_select(0, (index + start).flatten()).view(*index.shape, x.shape[-1])

    def extra_repr(self) -> str:
        return self.arguments


def build(prepared: SparsePrepared, kind: type[SpectralAttention] = SpectralAttention) -> SpectralAttention:
    """A module of a `kind` that runs `prepared`; `repr` of it is the expression that makes it again, empty, and its state dict holds the
    codebooks."""
    heads, leaves, width = prepared.query_codebook.shape
    kv_heads, key_leaves, _ = prepared.key_codebook.shape
    module = kind(
        heads,
        (leaves, key_leaves),
        width,
        prepared.tile,
        prepared.budget,
        prepared.scale,
        kv_heads,
        prepared.key_tile,
        prepared.dense_below,
    )
    module.query_codebook.copy_(torch.from_numpy(prepared.query_codebook))
    module.key_codebook.copy_(torch.from_numpy(prepared.key_codebook))
    return module.eval()
