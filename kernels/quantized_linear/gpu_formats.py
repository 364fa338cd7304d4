"""Weights in the layouts of linear_int4 and linear_fp8, which run on GPUs alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ..linear_fp8.reference import rounded_rows
from ..linear_int4.packing import MIDDLE, folded, pack
from ..linear_int4.reference import weights_of
from .block_scales import asymmetric, in_half, symmetric
from .rounding import output_error, rounded

GPU_FORMATS = ("int4_group_weight", "fp8_column_weight", "fp8_token")
"""4 bits in groups of rows; fp8 with one scale a column; the same, with inputs in fp8 too, one scale a row."""
INT4_GROUP = 64
"""Rows of a group: with scale and shift in fp16 a weight takes 4.5 bits."""


def gpu_tensors(action: str, weight: np.ndarray, gram: np.ndarray | None) -> dict[str, np.ndarray]:
    """The tensors of `weight` [K, N] in one of `GPU_FORMATS`, as `Prepared` holds them but for the bias. `gram` [K, K] is X^T X of the
    inputs: 4-bit weights are rounded to keep the layer's output."""
    if action == "int4_group_weight":
        return _int4(weight, gram)
    # Rows of the layout are columns of the weight, each with its own scale, as `rounded_rows` has it.
    codes, scale = rounded_rows(torch.from_numpy(np.ascontiguousarray(weight.T)))
    return {"weight": codes.view(torch.uint8).numpy(), "weight_scale": scale[:, 0].numpy()}


def gpu_weight(action: str, tensors: Mapping[str, np.ndarray], features: int) -> np.ndarray:
    """The float32 [K, N] matrix that the tensors stand for."""
    held = {name: torch.from_numpy(array) for name, array in tensors.items() if name.startswith("weight")}
    if action == "int4_group_weight":
        whole = weights_of(held["weight"], held["weight_scale"], held.get("weight_shift"), features, INT4_GROUP)
    else:
        whole = held["weight"].view(torch.float8_e4m3fn).float().T * held["weight_scale"]
    return np.ascontiguousarray(whole.numpy())


def _int4(weight: np.ndarray, gram: np.ndarray | None) -> dict[str, np.ndarray]:
    """Symmetric or with zero points, whichever keeps the output better. Codes are rounded for scales that are in fp16 already."""
    features, columns = weight.shape
    groups = -(-features // INT4_GROUP)
    grouped = np.pad(weight, ((0, groups * INT4_GROUP - features), (0, 0))).reshape(groups, INT4_GROUP, columns)
    found: list[tuple[float, int, dict[str, np.ndarray]]] = []
    for scale, zero in (symmetric(grouped, 4), asymmetric(grouped)):
        half = in_half(scale)
        scales, zeros = (np.repeat(a, INT4_GROUP, axis=0)[:features] for a in (half.astype(np.float32), zero))
        codes = rounded(weight, scales, zeros, 0, 15, gram)
        tensors = {"weight": pack(torch.from_numpy(codes)).numpy(), "weight_scale": half}
        if np.any(zero != MIDDLE):
            tensors["weight_shift"] = folded(torch.from_numpy(half).float(), torch.from_numpy(zero)).half().numpy()
        found.append((output_error(weight - gpu_weight("int4_group_weight", tensors, features), gram), len(found), tensors))
    return min(found)[2]
