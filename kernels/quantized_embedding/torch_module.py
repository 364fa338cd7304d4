"""A table of embeddings in integer codes as a torch module. An emitted model.py carries its source text, so it needs torch alone."""

from __future__ import annotations

import torch

from .formats import PreparedTable


class CodedEmbedding(torch.nn.Module):
    """Rows of a table held in codes of `bits` bits, with one scale for each `group` columns; the rows that are looked up become floats."""

    codes: torch.Tensor
    scale: torch.Tensor

    def __init__(self, rows: int, width: int, bits: int, group: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.arguments = f"{rows}, {width}, bits={bits}, group={group}, dtype={dtype}"
        self.width, self.bits, self.group, self.dtype = width, bits, group, dtype
        self.register_buffer("codes", torch.zeros(rows, width * bits // 8, dtype=torch.uint8))
        self.register_buffer("scale", torch.ones(rows, -(-width // group)))

    def forward(self, indices: torch.Tensor) -> torch.Tensor:
        codes, scale = self.codes[indices], self.scale[indices]
        if self.bits == 4:
            codes = torch.stack([codes & 15, codes >> 4], dim=-1).flatten(-2)
        values = codes.float() - float(1 << (self.bits - 1))
        if scale.shape[-1] > 1:
            scale = scale.repeat_interleave(self.group, dim=-1)[..., : self.width]
        return (values * scale).to(self.dtype)

    def extra_repr(self) -> str:
        return self.arguments


def build(prepared: PreparedTable, dtype: torch.dtype) -> torch.nn.Module:
    """A module that takes indices [...] and gives rows [..., D] in `dtype`."""
    module = CodedEmbedding(len(prepared.codes), prepared.width, prepared.bits, prepared.group, dtype)
    module.load_state_dict({"codes": torch.from_numpy(prepared.codes), "scale": torch.from_numpy(prepared.scale)})
    return module.eval()
