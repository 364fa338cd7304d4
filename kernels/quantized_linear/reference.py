"""The arithmetic of every integer format in plain torch, as onnxruntime's CPU provider does it, to float rounding."""

from __future__ import annotations

import torch

from .formats import FORMATS, Prepared


def simulate(prepared: Prepared, x: torch.Tensor) -> torch.Tensor:
    """y [M, N] = x [M, K] W + b in the format of `prepared`; a merged one gives all its columns. Integer sums are taken in float64, where
    they are exact below 2^53 and fast."""
    if prepared.base not in FORMATS[:2]:
        return _weight_only(prepared, x)
    if prepared.base == "int8_static":
        if prepared.scalars["migrated"]:
            x = x * torch.from_numpy(prepared.tensors["input_scale"])
        scale = torch.tensor(prepared.scalars["scale"], dtype=torch.float32)
        zero = torch.tensor(float(prepared.scalars["zero"]))
    else:
        scale, zero = dynamic_range(x)
    codes = torch.clamp(torch.round(x / scale) + zero, 0, 255)
    sums = (codes - zero).double() @ torch.from_numpy(prepared.tensors["weight"]).double()
    return sums.float() * (scale * torch.from_numpy(prepared.tensors["weight_scale"])) + torch.from_numpy(
        prepared.tensors["bias"]
    )


def dynamic_range(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of the u8 codes of a whole tensor (ONNX DynamicQuantizeLinear): min to max with zero; scale 1 if x is
    all zero."""
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(high == low, torch.ones_like(scale), scale)
    return scale, torch.round(torch.clamp(-low / scale, 0, 255))


def _weight_only(prepared: Prepared, x: torch.Tensor) -> torch.Tensor:
    """MatMulNBits at accuracy level 4: each row of x is rounded to signed 8-bit codes block by block, scale max|x| / 127."""
    bits, block = int(prepared.scalars["bits"]), int(prepared.scalars["block"])
    scale = torch.from_numpy(prepared.tensors["weight_scale"])
    columns, blocks = scale.shape
    codes = torch.from_numpy(prepared.tensors["weight"])
    if bits == 4:
        codes = torch.stack([codes & 15, codes >> 4], dim=-1)
    zero = torch.full((columns, blocks), float(1 << (bits - 1)))
    if "weight_zero" in prepared.tensors:
        packed = torch.from_numpy(prepared.tensors["weight_zero"])
        zero = torch.stack([packed & 15, packed >> 4], dim=-1).reshape(columns, -1)[:, :blocks].float()
    weight = codes.reshape(columns, blocks, block).float() - zero[:, :, None]
    padded = torch.nn.functional.pad(x, (0, blocks * block - x.shape[1])).reshape(len(x), blocks, block)
    input_scale = padded.abs().amax(dim=-1) / 127
    rounded = torch.round(padded / torch.where(input_scale == 0, torch.ones_like(input_scale), input_scale)[:, :, None])
    sums = torch.einsum("mbk,nbk->mnb", rounded, weight)
    y = torch.einsum("mnb,mb,nb->mn", sums, input_scale, scale)
    return y + torch.from_numpy(prepared.tensors["bias"])
