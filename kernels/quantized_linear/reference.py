"""The arithmetic of every number format in plain torch, as onnxruntime's CPU provider or the Triton kernel does it, to float rounding."""

from __future__ import annotations

import torch

from ..linear_fp8.reference import rounded_rows
from .formats import FINE_ZERO, PER_COLUMN, TRITON_FORMATS, Prepared, effective_weight, fine_scale, row_range_of
from .half_formats import HALF_FORMATS
from .row_scale import row_peaks


def simulate(prepared: Prepared, x: torch.Tensor) -> torch.Tensor:
    """y [M, N] = x [M, K] W + b, all float32, in the format of `prepared`; a merged one gives all its columns. The integer sums are taken
    in float32, whose matmul is the fastest there is; they round beyond 2^24, as the runtime's scaling does."""
    if prepared.base in TRITON_FORMATS:
        if prepared.base == "fp8_token":
            codes, scale = rounded_rows(x)
            x = codes.float() * scale
        return x @ torch.from_numpy(effective_weight(prepared)) + torch.from_numpy(prepared.tensors["bias"])
    if prepared.base in HALF_FORMATS:
        return _in_half(prepared, x)
    if prepared.base == "bfloat16":
        # torch adds the bias to the sums before it rounds them.
        product = x.bfloat16().float() @ torch.from_numpy(effective_weight(prepared))
        return (product + torch.from_numpy(prepared.tensors["bias"]).bfloat16()).bfloat16().float()
    if prepared.base not in PER_COLUMN:
        return _weight_only(prepared, x)
    weight, bias = torch.from_numpy(prepared.tensors["weight"]).float(), torch.from_numpy(prepared.tensors["bias"])
    column_scale = torch.from_numpy(prepared.tensors["weight_scale"])
    if prepared.scalars.get("migrated"):
        x = x * torch.from_numpy(prepared.tensors["input_scale"])
    if prepared.base == "int8_token":
        rows = row_range_of(prepared)
        peak = torch.from_numpy(row_peaks(x.numpy(), rows))
        codes = _codes(x * (1 / peak), torch.tensor(rows.step), torch.tensor(float(rows.zero)))
        return ((codes @ weight) * (torch.tensor(rows.step) * column_scale)) * peak + bias
    if prepared.base == "int8_dynamic":
        scale, zero = dynamic_range(x)
    else:
        scale = torch.tensor(prepared.scalars["scale"], dtype=torch.float32)
        zero = torch.tensor(float(prepared.scalars["zero"]))
    high = _codes(x, scale, zero)
    y = (high @ weight) * (scale * column_scale) + bias
    if prepared.base == "int8_hilo":
        fine = torch.tensor(fine_scale(prepared))
        y = y + (_codes(x - high * scale, fine, torch.tensor(float(FINE_ZERO))) @ weight) * (fine * column_scale)
    return y


def _in_half(prepared: Prepared, x: torch.Tensor) -> torch.Tensor:
    """Inputs, products and what the bias makes of them in float16, with sums in float32. For a few rows onnxruntime's CUDA kernels add up
    parts of a sum in float16, whose rounding is left out here."""
    product = (x.half().float() @ torch.from_numpy(effective_weight(prepared))).half()
    return (product + torch.from_numpy(prepared.tensors["bias"]).half()).float()


def _codes(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """The u8 codes of x, less their zero point, as floats."""
    return torch.clamp(torch.round(x / scale) + zero, 0, 255) - zero


def dynamic_range(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of the u8 codes of a whole tensor (ONNX DynamicQuantizeLinear): min to max with zero; scale 1 if x is
    all zero."""
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(high == low, torch.ones_like(scale), scale)
    return scale, torch.round(torch.clamp(-low / scale, 0, 255))


def _weight_only(prepared: Prepared, x: torch.Tensor) -> torch.Tensor:
    """MatMulNBits at accuracy level 4: each row of x is rounded block by block to signed 8-bit codes of scale max|x| / 127."""
    rows, features = x.shape
    block = int(prepared.scalars["block"])
    blocks = torch.nn.functional.pad(x, (0, -features % block)).reshape(rows, -1, block)
    scale = blocks.abs().amax(dim=-1, keepdim=True) / 127
    rounded = torch.round(blocks / torch.where(scale == 0, torch.ones_like(scale), scale)) * scale
    weight = torch.from_numpy(effective_weight(prepared))
    return rounded.reshape(rows, -1)[:, :features] @ weight + torch.from_numpy(prepared.tensors["bias"])
