"""What a convolution becomes on u8 codes: codes of the weight, scales and bias, and the codes of what it reads and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional

from ...cost_model.errors import InputError
from ..quantized_linear.block_scales import nonzero
from ..quantized_linear.rounding import compensated, nearest
from .codes import Codes

ACTION = "int8_conv"
ROUNDING_POSITIONS = 2048
"""Positions of the output against which weights are rounded."""

WIDEST_ROUNDING = 2304
"""Weights a channel beyond which they are rounded to nearest: the gram matrix of so many inputs has to be factored."""

MOST_STEPS = 1 << 30
"""The largest bias in steps: half of what 32 bits hold."""

CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


@dataclass(frozen=True)
class Geometry:
    """Of a convolution over d axes: `strides` and `dilations` [d], `pads` [2 d] with all beginnings first, as in ONNX. With `auto_pad`
    (SAME_UPPER or SAME_LOWER) the pads follow from each size of x, and `pads` are those of the sizes at hand."""

    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    groups: int
    auto_pad: str = ""


@dataclass(frozen=True, eq=False)
class PreparedConv:
    """y = clip(conv(x, W) + b) on codes: `weight` int8 [M, C / groups, *kernel], `weight_scale` float32 [M], `bias` int32 [M] in steps of
    x.scale * weight_scale. A clip is the saturation of the codes of `y`."""

    weight: np.ndarray
    weight_scale: np.ndarray
    bias: np.ndarray
    x: Codes
    y: Codes
    geometry: Geometry


def prepare(
    weight: np.ndarray,
    bias: np.ndarray | None,
    geometry: Geometry,
    x: Codes,
    y: Codes,
    samples: Sequence[np.ndarray] = (),
    *,
    narrow: bool = False,
) -> PreparedConv:
    """`PreparedConv` of `weight` [M, C / groups, *kernel] and `bias` [M], one weight scale a channel.

    `samples` are inputs [B, C, *]: with them weights of a convolution of one group are rounded to keep its output (GPTQ), and the bias
    takes up the mean error of each channel; without, to nearest. `narrow` keeps weights within 7 bits, for x86 CPUs without VNNI, where
    a sum of two u8 x s8 products saturates at 16 bits. InputError for values that are not finite."""
    weight = np.asarray(weight, np.float32)
    bias = np.zeros(len(weight), np.float32) if bias is None else np.asarray(bias, np.float32)
    if not np.isfinite(weight).all() or not np.isfinite(bias).all():
        raise InputError(
            "A convolution holds weights that are not finite, so no integer format can hold them; leave it as it is."
        )
    limit = 63 if narrow else 127
    flat = weight.reshape(len(weight), -1).T
    # The bias is whole steps of x.scale * scale, and has to fit into 32 bits with room for the sum that it is added to.
    least = np.abs(bias) / (np.float64(x.scale) * MOST_STEPS)
    scale = nonzero(np.maximum(np.abs(flat).max(axis=0) / limit, least))
    spread, zero = np.broadcast_to(scale, flat.shape), np.zeros_like(flat)
    if len(samples) and geometry.groups == 1 and len(flat) <= WIDEST_ROUNDING:
        columns = _columns(samples, weight.shape[2:], geometry)
        codes = compensated(flat, spread, zero, -limit, limit, columns.T @ columns)
    else:
        codes = nearest(flat, spread, zero, -limit, limit)
    held = codes.T.reshape(weight.shape).astype(np.int8)
    made = PreparedConv(held, scale, np.zeros(len(weight), np.int32), x, y, geometry)
    if len(samples):
        bias = bias + _mean_output(weight - effective(made)[0], samples, geometry)
    steps = np.rint(bias.astype(np.float64) / (np.float64(x.scale) * scale))
    whole = np.iinfo(np.int32)
    return replace(made, bias=steps.clip(whole.min, whole.max).astype(np.int32))


def effective(prepared: PreparedConv) -> tuple[np.ndarray, np.ndarray]:
    """The float32 weight and bias that the integers stand for."""
    weight = prepared.weight * prepared.weight_scale.reshape(-1, *(1,) * (prepared.weight.ndim - 1))
    bias = prepared.bias * (np.float64(prepared.x.scale) * prepared.weight_scale)
    return weight, bias.astype(np.float32)


def folded(
    weight: np.ndarray,
    bias: np.ndarray | None,
    norm: Mapping[str, np.ndarray],
    epsilon: float,
    groups: int = 1,
    transposed: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias with a batch norm (`gamma`, `beta`, `mean`, `variance`, each [M]) behind them folded in, in float64, rounded once to
    the dtype of the weight: W'[o] = W[o] gamma[o] / sqrt(variance[o] + epsilon), b' = (b - mean) gamma / sqrt(variance + epsilon) + beta.

    The weight is [M, C / groups, *kernel], or `transposed` [C, M / groups, *kernel] with the groups along C."""
    gamma, beta, mean, variance = (norm[name].astype(np.float64) for name in ("gamma", "beta", "mean", "variance"))
    factor = gamma / np.sqrt(variance + epsilon)
    shift = (0.0 if bias is None else bias.astype(np.float64)) - mean
    grouped = weight.astype(np.float64).reshape(groups, -1, *weight.shape[1:])
    shape = (groups, 1, -1) if transposed else (groups, -1, 1)
    scaled = grouped * factor.reshape(*shape, *(1,) * (weight.ndim - 2))
    return scaled.reshape(weight.shape).astype(weight.dtype), (shift * factor + beta).astype(weight.dtype)


def convolve(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, geometry: Geometry) -> torch.Tensor:
    """conv(x [B, C, *], weight [M, C / groups, *kernel]) + bias, padded with zeros as `geometry` has it."""
    axes = x.ndim - 2
    ends = [pad for axis in reversed(range(axes)) for pad in (geometry.pads[axis], geometry.pads[axes + axis])]
    return CONVOLUTIONS[axes](functional.pad(x, ends), weight, bias, geometry.strides, 0, geometry.dilations, geometry.groups)  # type: ignore[operator]


def _mean_output(weight: np.ndarray, samples: Sequence[np.ndarray], geometry: Geometry) -> np.ndarray:
    """Mean over positions and samples of conv(x, weight), float32 [M]."""
    total, count = np.zeros(len(weight)), 0
    for sample in samples:
        x = torch.from_numpy(np.ascontiguousarray(sample, dtype=np.float32))
        out = convolve(x, torch.from_numpy(np.ascontiguousarray(weight)), None, geometry).transpose(0, 1).flatten(1)
        total += out.sum(dim=1, dtype=torch.float64).numpy()
        count += out.shape[1]
    return (total / max(count, 1)).astype(np.float32)


def _columns(samples: Sequence[np.ndarray], kernel: Sequence[int], geometry: Geometry) -> np.ndarray:
    """What single positions of the output read, float32 [at most about `ROUNDING_POSITIONS`, C * kernel], spread over all samples."""
    share, parts = -(-ROUNDING_POSITIONS // len(samples)), []
    for sample in samples:
        axes = sample.ndim - 2
        edges = [(0, 0), (0, 0), *((geometry.pads[axis], geometry.pads[axes + axis]) for axis in range(axes))]
        padded = np.pad(np.asarray(sample, np.float32), edges)
        reach = tuple((size - 1) * step + 1 for size, step in zip(kernel, geometry.dilations, strict=True))
        windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, 2 + axes)))
        steps = (slice(None), slice(None), *(slice(None, None, s) for s in geometry.strides))
        taps = tuple(slice(None, None, d) for d in geometry.dilations)
        seen = windows[(*steps, *taps)]
        places = np.array(np.unravel_index(_spread(seen.shape, share), (seen.shape[0], *seen.shape[2 : 2 + axes])))
        found = seen[(places[0], slice(None), *places[1:])]
        parts.append(found.reshape(len(found), -1))
    return np.concatenate(parts)


def _spread(shape: Sequence[int], share: int) -> np.ndarray:
    axes = (len(shape) - 2) // 2
    count = int(shape[0] * np.prod(shape[2 : 2 + axes], dtype=np.int64))
    return np.linspace(0, count - 1, min(share, count)).astype(np.int64)
