"""Where spectral attention must equal something known, and by how much it misses, in roundings of its dtype.

`python -P -m szilard.benchmarks.attention_limits`. All tiles exact is dense attention, none is attention to the moments of tiles, and a
constant value comes back, at an N that no tile divides. The peer is torch's SDPA in the same dtype. Everything is held against float64.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.functional import scaled_dot_product_attention

from ..kernels.spectral_attention.reference import sorted_by_leaf
from ..kernels.spectral_attention.registration import spectral_attention

RESULTS = Path(__file__).parent / "results"
HEADS, LENGTH, WIDTH, TILE, LEAVES = 4, 1000, 64, 64, 16
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def centroids(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, books: Sequence[torch.Tensor]) -> torch.Tensor:
    """Attention to the count, mean, variance and first-order term of each tile, query tile by query tile in float64 [1, H, N, Dv]."""
    query, key, value = (x.double() for x in (query * WIDTH**-0.5, key, value))
    found = torch.zeros_like(query)
    for head in range(HEADS):
        own, theirs = (
            sorted_by_leaf(x[:, head, None].float() * scale, book[head, None])[0, 0].split(TILE)
            for x, book, scale in ((query, books[0], WIDTH**0.5), (key, books[1], 1.0))
        )
        keys, values = ([x[0, head, rows] for rows in theirs] for x in (key, value))
        means, mean_values = (torch.stack([x.mean(0) for x in each]) for each in (keys, values))
        slopes = torch.stack([(k - k.mean(0)).T @ v / len(k) for k, v in zip(keys, values, strict=True)])
        for rows in own:
            queries = query[0, head, rows]
            centre = queries.mean(0)
            mass = torch.stack([(len(k) * (1 + (k @ centre).var(correction=0) / 2)).log() for k in keys])
            slope = torch.einsum("j,jdv->dv", (means @ centre + mass).softmax(0), slopes)
            found[0, head, rows] = (queries @ means.T + mass).softmax(-1) @ mean_values + queries @ slope
    return found


def deviations(dtype: torch.dtype) -> dict[str, float]:
    """Greatest |found - wanted| / greatest |wanted|, in the dtype's eps."""
    random = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, HEADS, LENGTH, WIDTH, generator=random).to(dtype) for _ in "qkv")
    books = [torch.randn(HEADS, LEAVES, WIDTH, generator=random) for _ in "qk"]

    def ours(budget: int, values: torch.Tensor) -> torch.Tensor:
        return spectral_attention(query, key, values, *books, scale=WIDTH**-0.5, tile=TILE, budget=budget)

    def missed(found: torch.Tensor, wanted: torch.Tensor) -> float:
        return float((found.double() - wanted).abs().max() / wanted.abs().max() / torch.finfo(dtype).eps)

    dense = scaled_dot_product_attention(query.double(), key.double(), value.double())
    constant = value[:, :, :1].expand_as(value)
    return {
        "torch SDPA": missed(scaled_dot_product_attention(query, key, value), dense),
        "all tiles exact": missed(ours(LENGTH // TILE + 1, value), dense),
        "no tile exact": missed(ours(0, value), centroids(query, key, value, books)),
        "constant value": max(missed(ours(budget, constant), constant.double()) for budget in (0, 3, 16)),
    }


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table and writes benchmarks/results/attention-limits.json."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(arguments)
    found = {str(dtype).removeprefix("torch."): deviations(dtype) for dtype in DTYPES}
    table = Table(
        "dtype", *found["float32"], title=f"greatest deviation from float64, in eps of the greatest entry, N = {LENGTH}"
    )
    for name, row in found.items():
        table.add_row(name, *(f"{x:.2f}" for x in row.values()))
    Console(width=120).print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "attention-limits.json").write_text(json.dumps({"benchmark": "attention_limits", "eps": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
