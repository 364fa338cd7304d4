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
    """The same by Triton kernels for queries [B, H, M, D], keys [B, KV, N, D] and values [B, KV, N, E] on CUDA, else in plain torch."""

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
        if spectral_attention is not None and spectral_attention.fits(query, key, value):
            return spectral_attention.spectral_attention(
                query, key, value, *books, scale=scale, tile=tile, budget=budgets, key_mask=mask, key_tile=key_tile
            )
        if query.is_cuda:
            raise RuntimeError(
                "Spectral sparse attention on a CUDA device needs triton, sm_80 or newer, and heads of up to 256 columns, 128 in float32; "
                "install it, or run the model on the CPU."
            )
        return super().attention(query, key, value, *books, mask, scale, tiles, budgets)


class TritonCausalSpectralAttention(CausalSpectralAttention):
    """The same by Triton kernels for queries [B, H, N, D], keys [B, KV, N, D] and values [B, KV, N, E] on CUDA, else in plain torch."""

    def attention(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        if spectral_attention is not None and spectral_attention.fits(query, key, value):
            layout = causal_spectral_attention.Layout(*self.sizes)
            return causal_spectral_attention.causal_spectral_attention(
                query, key, value, scale=self.scale, budget=self.budgets, layout=layout
            )
        if query.is_cuda:
            raise RuntimeError(
                "Spectral sparse attention on a CUDA device needs triton, sm_80 or newer, and heads of up to 256 columns, 128 in float32; "
                "install it, or run the model on the CPU."
            )
        return super().attention(query, key, value)
