"""Spectral sparse attention as torch modules for CUDA. Their source text is what an emitted model.py carries, beside a copy of the Triton
files as kernels/spectral_attention/."""

from __future__ import annotations

import torch

from .causal_torch_module import CausalSpectralAttention
from .torch_module import SpectralAttention

try:
    from . import triton as spectral_attention
    from . import triton_causal as causal_spectral_attention
except ImportError:
    spectral_attention = causal_spectral_attention = None  # type: ignore[assignment]


class TritonSpectralAttention(SpectralAttention):
    """The same by Triton kernels, for operands on CUDA that these take."""

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
        books, (tile, key_tile) = (query_codebook, key_codebook), tiles
        if spectral_attention is None or not spectral_attention.fits(query, key, value):
            return super().attention(query, key, value, *books, mask, scale, tiles, budgets)
        return spectral_attention.spectral_attention(
            query, key, value, *books, scale=scale, tile=tile, budget=budgets, key_mask=mask, key_tile=key_tile
        )


class TritonCausalSpectralAttention(CausalSpectralAttention):
    """The same by Triton kernels, for operands on CUDA that these take."""

    def attention(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        if spectral_attention is None or not spectral_attention.fits(query, key, value):
            return super().attention(query, key, value)
        layout = causal_spectral_attention.Layout(*self.sizes)
        return causal_spectral_attention.causal_spectral_attention(
            query, key, value, scale=self.scale, budget=self.budgets, layout=layout
        )
