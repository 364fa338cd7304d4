"""Operands and small layouts for the tests of causal spectral attention."""

import torch

from szilard.kernels.spectral_attention.causal import Layout

SMALL = Layout(query_tile=8, key_tile=2, segment=16, sink=8)


def operands(seed: int, batch: int, heads: tuple[int, int], length: int, width: int, depth: int) -> list[torch.Tensor]:
    """Query [batch, heads[0], length, width], key and value of heads[1] heads; keys lie around eight centres, and the first one is far."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.randn((heads[1], 8, width), generator=random) * 1.5
    member = torch.randint(8, (batch, heads[1], length), generator=random)
    key = centres[torch.arange(heads[1])[:, None], member] + 0.5 * torch.randn(
        (batch, heads[1], length, width), generator=random
    )
    key[:, :, 0] = key[:, :, 0] * 3
    query = torch.randn((batch, heads[0], length, width), generator=random)
    value = torch.randn((batch, heads[1], length, depth), generator=random)
    return [query, key, value]


def dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """Torch's causal attention."""
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True)


def padded(seed: int, batch: int, length: int) -> torch.Tensor:
    """[batch, length]: tokens that count, the others on the left in the first row, on the right in the next, anywhere in the rest."""
    random = torch.Generator().manual_seed(seed)
    counts = torch.rand((batch, length), generator=random) > 0.4
    place, cut = torch.arange(length), length // 3
    counts[0] = place >= cut
    counts[1] = place < length - cut
    counts[:, length // 2] = True
    return counts
