"""Codes of 4 bits as a GPU reads them: two a byte, 32 rows apart, so that neither half of a tile need be shuffled or loaded twice."""

import torch

SPAN = 64
"""Rows of the weight in 32 rows of bytes: row i of a span is in the low nibbles of its byte row i, row 32 + i in the high ones."""
MIDDLE = 8
"""The code that stands for zero where there are no zero points."""


def pack(codes: torch.Tensor) -> torch.Tensor:
    """uint8 [32 ceil(K / 64), N] of codes 0..15 [K, N]; the last span is filled up with `MIDDLE`. Raises ValueError for other codes."""
    if codes.dim() != 2 or (codes.numel() and (int(codes.min()) < 0 or int(codes.max()) > 15)):
        raise ValueError(f"Codes of 4 bits are [K, N] and lie in 0..15; these are {list(codes.shape)}.")
    rows, columns = codes.shape
    filled = torch.nn.functional.pad(codes.to(torch.uint8), (0, 0, 0, -rows % SPAN), value=MIDDLE)
    halves = filled.reshape(-1, 2, SPAN // 2, columns)
    return (halves[:, 0] | halves[:, 1] << 4).reshape(-1, columns).contiguous()


def unpack(packed: torch.Tensor, rows: int) -> torch.Tensor:
    """The uint8 codes [K, N] of `pack`, K = `rows`."""
    columns = packed.shape[1]
    spans = packed.reshape(-1, SPAN // 2, columns)
    return torch.stack([spans & 15, spans >> 4], dim=1).reshape(-1, columns)[:rows]


def folded(scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """-zero * scale, all of one shape [K / group, N]: with it a weight is code * scale + shift, one fused multiply-add."""
    return -zero * scale


def packed_rows(features: int) -> int:
    """Rows of bytes of a weight with so many rows."""
    return -(-features // SPAN) * (SPAN // 2)
