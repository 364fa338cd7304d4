"""Causal spectral attention as a torch module. Its source text is what an emitted model.py carries, so it needs torch alone."""

from __future__ import annotations

import torch

from .causal_prepare import CausalPrepared, Operands


class CausalSpectralAttention(torch.nn.Module):
    """Causal softmax(scale q k^T) v: each query head reads the tile of its queries, the `budgets` tiles of past keys that matter most to
    it, and the mean of every other tile. A budget of None is dense. Queries [B, H, N, D], keys and values [B, Hkv, N, D], mask [1 or B, N]
    (True where a token counts; what the others give is not defined).
    `sizes`: of a tile of queries, of a tile of keys, of a segment whose keys are put into tiles by content, and of the keys before it.
    Fewer than `dense_below` tokens are dense attention."""

    def __init__(
        self, budgets: tuple[int | None, ...], scale: float, sizes: tuple[int, int, int, int], dense_below: int = 0
    ) -> None:
        super().__init__()
        self.arguments = f"{budgets}, scale={scale!r}, sizes={sizes}, dense_below={dense_below}"
        self.budgets, self.scale, self.sizes, self.dense_below = budgets, scale, sizes, dense_below
        # Heads run in the order of their budgets: those that are sparse at a length are the first ones.
        limits = [1 << 40 if budget is None else budget for budget in budgets]
        self.order = sorted(range(len(limits)), key=limits.__getitem__)
        self.back = sorted(range(len(limits)), key=self.order.__getitem__)
        self.limits = [limits[head] for head in self.order]
        starts = {limit: self.limits.index(limit) for limit in self.limits}
        self.runs = [(limit, start, start + self.limits.count(limit)) for limit, start in starts.items()]

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        if mask is not None:
            # Tokens that do not count move behind all that do, where none of those looks.
            order = (~mask).long().argsort(dim=-1, stable=True)[:, None, :, None].expand(query.shape[0], -1, -1, -1)
            query, key, value = (torch.take_along_dim(x, order, dim=2) for x in (query, key, value))
            return torch.take_along_dim(self(query, key, value), order.argsort(dim=2), dim=2)
        if query.shape[2] < self.dense_below:
            return torch.nn.functional.scaled_dot_product_attention(
                query, key, value, is_causal=True, scale=self.scale, enable_gqa=True
            )
        return self.attention(query, key, value)

    def attention(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        size, count, _, _ = self.sizes
        length, repeats = query.shape[2], query.shape[1] // key.shape[1]
        shared = [head // repeats for head in self.order]
        queries, keys, values = query.float()[:, self.order] * self.scale, key.float(), value.float()
        output = queries.new_empty(*queries.shape[:3], value.shape[3])
        # A tile of queries with no more tiles before it than the budget is dense.
        for limit, first, last in self.runs:
            rows, heads = min(length, (limit * count // size + 1) * size), shared[first:last]
            output[:, first:last, :rows] = torch.nn.functional.scaled_dot_product_attention(
                queries[:, first:last, :rows], keys[:, heads, :rows], values[:, heads, :rows], is_causal=True, scale=1.0
            )
        if length > (self.limits[0] * count // size + 1) * size:
            self.sparse(queries, keys, values, shared, output)
        return output[:, self.back].to(query.dtype)

    def sparse(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, shared: list[int], output: torch.Tensor
    ) -> None:
        size, count, segment, sink = self.sizes
        length, step, device = query.shape[2], size // count, query.device
        blocks = -(-length // size)
        segments = max(0, ((blocks - 1) * size - sink - count) // segment)
        query, key, value = (torch.nn.functional.pad(x, (0, 0, 0, -length % size)) for x in (query, key, value))
        # Tables of what the present queries read, a row for each tile: keys, values, their means, and the variance of keys. They begin with
        # tiles of neighbours; where a segment is closed, its tiles by content take their place.
        tables, slopes = self.moments(key, value, size)
        behind_sink = slice(sink, sink + segments * segment)
        by_content, sums = self.moments(*self.by_content(key[:, :, behind_sink], value[:, :, behind_sink]), segment)
        tile = torch.arange(blocks, device=device)
        closed = ((tile * size - sink - count) // segment).clamp(0, segments)
        if segments:
            sunk = slopes[:, :, sink // size, None] - slopes[:, :, (sink + segment * closed) // size]
            slopes = slopes[:, :, :blocks] + sunk + sums[:, :, closed]
        slopes = slopes[:, :, :blocks] / (tile * size).clamp(min=1)[:, None, None]

        # first: where the tiles of each head begin in the tables.
        first = torch.arange(query.shape[0], device=device)[:, None] * key.shape[1] + torch.tensor(shared, device=device)
        first = first[:, :, None, None] * (blocks * step)
        queries = query.unflatten(2, (blocks, size))
        centres = queries.sum(3) / (length - size * tile).clamp(max=size)[:, None]
        limits = torch.tensor(self.limits, device=device)[:, None, None]
        stops = [-(-(sink + segment * (index + 1) + count) // size) for index in range(segments)] + [blocks]
        widest = max(stop - start for start, stop in zip([0, *stops], stops, strict=False))
        rooms = self.rooms(query, widest, blocks * step, value.shape[3])
        stop = 0
        for index, next_stop in enumerate(stops):
            begin, stop = max(stop, self.limits[0] // step + 1), next_stop
            if index:
                opened = slice((sink + (index - 1) * segment) // count, (sink + index * segment) // count)
                for table, new in zip(tables, by_content, strict=True):
                    table[:, :, opened] = new[:, :, (index - 1) * segment // count : index * segment // count]
            tiles, width = step * (stop - 1), stop - begin
            heads = sum(limit < tiles for limit in self.limits)
            if width <= 0 or not heads:
                continue
            place, edge = torch.arange(tiles, device=device), step * torch.arange(begin, stop, device=device)[:, None]
            mean_keys, mean_values, variances = (table[:, shared[:heads], :tiles] for table in tables[2:])
            centre = centres[:, :heads, begin:stop]
            spread = centre.square() @ variances.transpose(-1, -2)
            score = centre @ mean_keys.transpose(-1, -2) + spread.clamp(min=torch.finfo(spread.dtype).tiny).log()
            score = score.masked_fill_((place == 0) | (place == edge - 1), torch.inf).masked_fill_(place >= edge, -torch.inf)
            chosen = score.topk(min(self.limits[heads - 1], tiles), dim=-1).indices
            bias = (spread / 2 + 1).mul_(count).log_().masked_fill_(place >= edge, -torch.inf)
            within = torch.arange(chosen.shape[3], device=device) < limits[:heads]
            exact = torch.zeros_like(bias, dtype=torch.bool).scatter_(3, chosen, within.expand(chosen.shape))
            bias = bias.masked_fill_(exact, -torch.inf)[:, :, :, None]
            far = query[:, :heads, begin * size : stop * size] @ mean_keys.transpose(-1, -2)
            far, own = far.unflatten(2, (width, size)), edge + torch.arange(step, device=device)
            for limit, low, high in self.runs:
                skip = max(begin, limit // step + 1) - begin
                if low >= heads or skip >= width:
                    break
                read = chosen[:, low:high, skip:, :limit]
                read = torch.cat([own[skip:].expand(*read.shape[:3], step), read], dim=3) + first[:, low:high]
                rows = queries[:, low:high, begin + skip : stop]
                result = self.attend(
                    rows, far[:, low:high, skip:], bias[:, low:high, skip:], tables[:2], read, mean_values[:, low:high],
                    rows @ slopes[:, shared[low:high], begin + skip : stop], rooms,
                )[:, :, : length - (begin + skip) * size]  # fmt: skip
                output[:, low:high, (begin + skip) * size :][:, :, : result.shape[2]] = result

    def attend(
        self, rows: torch.Tensor, far: torch.Tensor, bias: torch.Tensor, tables: list[torch.Tensor], read: torch.Tensor,
        mean_values: torch.Tensor, slopes: torch.Tensor, rooms: tuple[torch.Tensor, ...],
    ) -> torch.Tensor:  # fmt: skip
        # One softmax over the keys of the tiles `read`, the own ones first, and the means of all others; in rooms that are used again.
        size, count = self.sizes[:2]
        near, batch = read.shape[3] * count, rows.shape[:3].numel()
        logits = rooms[0][: batch * size * (near + far.shape[4])].view(batch, size, -1)
        keys, values = (
            torch.index_select(
                table.view(-1, count * table.shape[4]),
                0,
                read.flatten(),
                out=room[: batch * near * table.shape[4]].view(-1, count * table.shape[4]),
            ).view(batch, near, -1)
            for table, room in zip(tables, rooms[1:], strict=True)
        )
        torch.bmm(rows.flatten(0, 2), keys.transpose(1, 2), out=logits[:, :, :near])
        logits[:, :, :size].masked_fill_(torch.ones(size, size, dtype=torch.bool, device=rows.device).triu(1), -torch.inf)
        torch.add(far, bias, out=logits.view(*rows.shape[:4], -1)[..., near:])
        torch.softmax(logits, dim=-1, out=logits)
        result = torch.bmm(logits[:, :, :near], values).view(*rows.shape[:4], -1)
        weights = logits.view(*rows.shape[:4], -1)[..., near:]
        result.addcmul_(weights.sum(-1, keepdim=True), slopes)
        return result.flatten(2, 3).add_(weights.flatten(2, 3) @ mean_values)

    def rooms(self, query: torch.Tensor, widest: int, tiles: int, depth: int) -> tuple[torch.Tensor, ...]:
        size, count = self.sizes[:2]
        most = [
            query.shape[0] * widest * (last - start) * (size + min(limit, tiles) * count)
            for limit, start, last in self.runs
            if limit < tiles
        ]
        heads = max(last - start for limit, start, last in self.runs if limit < tiles)
        logits = size * (max(most) + query.shape[0] * widest * heads * tiles)
        return tuple(query.new_empty(count) for count in (logits, max(most) * query.shape[3], max(most) * depth))

    def by_content(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # Halves every segment at the median along its leading principal direction until a half is a tile.
        count, segment = self.sizes[1:3]
        rows = key.reshape(-1, segment, key.shape[3])
        order = torch.arange(rows.shape[0] * segment, device=key.device)
        while rows.shape[1] > count:
            centred = rows - rows.mean(1, keepdim=True)
            covariance = centred.transpose(1, 2) @ centred
            widest = covariance.diagonal(dim1=1, dim2=2).argmax(-1)
            direction = covariance[torch.arange(len(rows), device=key.device), widest][..., None]
            for _ in range(3):
                direction = covariance @ torch.nn.functional.normalize(direction, dim=1)
            along = (rows @ direction).squeeze(2).argsort(dim=1, stable=True)
            along = (along + torch.arange(len(rows), device=key.device)[:, None] * rows.shape[1]).flatten()
            order, rows = (
                order[along],
                rows.flatten(0, 1).index_select(0, along).view(2 * len(rows), rows.shape[1] // 2, rows.shape[2]),
            )
        keys, values = (x.reshape(-1, x.shape[3]).index_select(0, order).view(x.shape) for x in (key, value))
        return keys, values

    def moments(self, key: torch.Tensor, value: torch.Tensor, rows: int) -> tuple[list[torch.Tensor], torch.Tensor]:
        # Tables of the tiles, and the sum of centred k^T v over the first 0, 1, 2, ... pieces of so many rows.
        keys, values = (x.unflatten(2, (-1, self.sizes[1])) for x in (key, value))
        means = keys.mean(3)
        centred = keys - means[:, :, :, None]
        tables = [
            keys.clone(memory_format=torch.contiguous_format),
            values.clone(memory_format=torch.contiguous_format),
            means,
            values.mean(3),
            centred.square().mean(3),
        ]
        centred, value = (x.reshape(*key.shape[:2], -1, rows, x.shape[-1]) for x in (centred, value))
        sums = (centred.transpose(-1, -2) @ value).flatten(3)
        before = torch.ones(sums.shape[2] + 1, sums.shape[2], device=key.device).tril(-1)
        return tables, (before @ sums).unflatten(3, (key.shape[3], -1))

    def extra_repr(self) -> str:
        return self.arguments


def build(prepared: CausalPrepared, kind: type[CausalSpectralAttention] = CausalSpectralAttention) -> CausalSpectralAttention:
    """A module of a `kind` that runs `prepared`; `repr` of it is the expression that makes it again, and it has no weights."""
    layout = prepared.layout
    sizes = (layout.query_tile, layout.key_tile, layout.segment, layout.sink)
    return kind(prepared.budgets, prepared.scale, sizes, prepared.dense_below).eval()


def run(prepared: CausalPrepared, text: Operands, mask: torch.Tensor | None = None) -> torch.Tensor:
    """What the module gives for a text [B, H, N, Dv]: `simulate`, but segment by segment and so in less memory."""
    with torch.inference_mode():
        return build(prepared)(*text, mask)
