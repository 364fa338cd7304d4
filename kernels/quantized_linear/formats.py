"""What a linear layer becomes in each number format: codes or numbers, scales and bias, ready for any runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...cost_model.errors import InputError
from .block_scales import asymmetric, in_half, nonzero, symmetric
from .gpu_formats import GPU_FORMATS, gpu_tensors, gpu_weight
from .half_formats import DTYPE_FORMATS, HALF_BITS, HALF_FORMATS, half_block, to_bfloat16, to_half
from .migration import channel_multipliers, input_range
from .rounding import output_error, rounded
from .row_scale import RowRange, row_range

INTEGER_INPUTS = ("int8_dynamic", "int8_static", "int8_token", "int8_hilo")
"""Formats whose inputs are integers too: codes of one range for each call, of one calibrated range, of one scale a row, or two codes."""

FORMATS = (*INTEGER_INPUTS, "int8_weight", "int4_weight")
CALIBRATED = frozenset(["int8_static", "int8_hilo"])
"""Formats whose input range is fixed beforehand."""

TRITON_FORMATS = ("int8_column_weight", *GPU_FORMATS)
"""Formats that only torch on CUDA has a kernel for; those of `FORMATS` run on CPUs, in torch and in onnxruntime."""

# Each runtime's. Those of `HALF_FORMATS` are onnxruntime's on CUDA; torch has those of `DTYPE_FORMATS`, by products of its own.
TORCH_FORMATS = (*FORMATS, *TRITON_FORMATS)
ONNX_FORMATS = (*FORMATS, *HALF_FORMATS)
EVERY_FORMAT = (*FORMATS, *TRITON_FORMATS, *HALF_FORMATS, "bfloat16")
PER_COLUMN = frozenset([*INTEGER_INPUTS, "int8_column_weight"])
"""Integer formats with one weight scale for each column; the others have one for each block of a column."""

COLUMNS_LAST = PER_COLUMN | {"int4_group_weight", *DTYPE_FORMATS}
"""Formats whose columns are the last axis of every tensor; in the others they are the first."""

FINE_ZERO = 128
"""The zero point of the second codes of int8_hilo."""

INT8_BLOCKS = (128, 64, 32, 16)
INT4_BLOCK = 32


@dataclass(frozen=True, eq=False)
class Prepared:
    """One linear layer y = x W + b in a number format, or as two factors.

    `PER_COLUMN`: `weight` int8 [K, N], `weight_scale` float32 [N], `bias` float32 [N]; int8_static adds the scalars
    `scale`, `zero` (u8 codes of the input are round(x / scale) + zero) and `migrated`; if that is 1, x is first multiplied by
    `input_scale` float32 [K]. int8_hilo adds `scale` and `zero`, and what these codes leave of x gets codes of its own, of
    `fine_scale` and `FINE_ZERO`: x in 16 bits. int8_token adds `zero`, `floor`, `two_sided` (see `RowRange`) and `migrated`.
    int8_weight and int4_weight (the layout of com.microsoft.MatMulNBits): `weight` uint8 [N, blocks, block * bits / 8], low nibble
    first, `weight_scale` float32 [N, blocks], int4 with optional `weight_zero` uint8 [N, ceil(blocks / 2)] (absent: zero point
    2^(bits-1)), scalars `bits` and `block`. `HALF_BITS` have the same layout, the scales in float16 and no zero points. float16 has
    `weight` float16 [K, N], bfloat16 has it in bfloat16. int4_group_weight has the operands of linear_int4,
    `weight_shift` only with zero points; the fp8 formats those of linear_fp8, the weight as uint8. Of a low rank (`low_rank.factors`):
    `first` float32 [K, r], `second` float32 [r, N], `bias` where the layer has one, and the scalar `rank`. "<format>_merged" adds
    `splits` int64: the widths of the layers whose columns stand side by side."""

    action: str
    tensors: Mapping[str, np.ndarray]
    scalars: Mapping[str, float | int]
    in_features: int
    out_features: int

    @property
    def base(self) -> str:
        """The format without "_merged"."""
        return self.action.removesuffix("_merged")


def prepare(
    action: str,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    activations: np.ndarray | None = None,
    *,
    narrow: bool = False,
) -> Prepared:
    """`Prepared` of `weight` [K, N] and `bias` [N] for the format `action`.

    `activations` [M, K] are inputs of the layer: with them weights are rounded to keep its output (GPTQ) and the bias takes up
    the mean error, b += mean(x) (W - Wq); without, to nearest. int8_static and int8_hilo need them for their input range (min-max
    with zero: clipping at the 99.99th percentile lost accuracy on MiniLM). `narrow` keeps the codes of `INTEGER_INPUTS` within 7
    bits, for x86 CPUs without VNNI, where a sum of two u8 x s8 products saturates at 16 bits. InputError for unknown formats,
    shapes that do not fit and values that are not finite."""
    return prepare_group(action, [weight], [bias], activations, narrow=narrow)[0]


def prepare_group(
    action: str,
    weights: Sequence[np.ndarray],
    biases: Sequence[np.ndarray | None],
    activations: np.ndarray | None = None,
    *,
    narrow: bool = False,
) -> list[Prepared]:
    """`prepare` for layers that read the same x: they share one input scale, zero point and migration, so x is quantised once."""
    _check(action, weights, biases, activations)
    wide = np.concatenate([np.asarray(w, np.float32) for w in weights], axis=1)
    filled = [
        np.zeros(w.shape[1], np.float32) if b is None else np.asarray(b, np.float32)
        for w, b in zip(weights, biases, strict=True)
    ]
    bias = np.concatenate(filled)
    x = None if activations is None else np.ascontiguousarray(activations, np.float32)
    if action in PER_COLUMN:
        whole = _prepare_per_column(action, wide, bias, x, narrow and action not in TRITON_FORMATS)
    elif action in GPU_FORMATS:
        tensors = {**gpu_tensors(action, wide, None if x is None else x.T @ x), "bias": bias}
        whole = _correct_bias(Prepared(action, tensors, {}, *wide.shape), wide, x)
    elif action in DTYPE_FORMATS:
        weight = to_half(wide) if action == "float16" else to_bfloat16(wide)
        whole = _correct_bias(Prepared(action, {"weight": weight, "bias": bias}, {}, *wide.shape), wide, x)
    else:
        whole = _prepare_blocks(action, wide, bias, x)
    if action in (*HALF_FORMATS, *DTYPE_FORMATS) and any(b is None for b in biases):
        # To add one where there was none would be a kernel of its own.
        whole = replace(whole, tensors={**whole.tensors, "bias": bias})
    stops = np.cumsum([w.shape[1] for w in weights])
    return [_columns(whole, stop - w.shape[1], stop) for w, stop in zip(weights, stops, strict=True)]


def merge(parts: Sequence[Prepared]) -> Prepared:
    """The layers of one `prepare_group` as one wide layer "<format>_merged"; `splits` holds their widths, in order. InputError if they
    do not share format and input quantisation."""
    first = parts[0]
    for part in parts[1:]:
        same = part.action == first.action and part.in_features == first.in_features and part.scalars == first.scalars
        same = same and np.array_equal(part.tensors.get("input_scale", 0), first.tensors.get("input_scale", 0))
        if not same or part.tensors.keys() != first.tensors.keys():
            raise InputError(
                "Only linear layers prepared together (prepare_group) can be merged: their formats or input scales differ."
            )
    axis = -1 if first.base in COLUMNS_LAST else 0
    tensors = {
        name: first.tensors[name] if name == "input_scale" else np.concatenate([p.tensors[name] for p in parts], axis)
        for name in first.tensors
    }
    tensors["splits"] = np.array([p.out_features for p in parts], np.int64)
    return replace(first, action=f"{first.action}_merged", tensors=tensors, out_features=sum(p.out_features for p in parts))


def row_range_of(prepared: Prepared) -> RowRange:
    """How an int8_token layer scales the rows of its (migrated) input."""
    scalars = prepared.scalars
    return RowRange(int(scalars["zero"]), float(scalars["floor"]), bool(scalars["two_sided"]))


def fine_scale(prepared: Prepared) -> np.float32:
    """The scale of the second codes of int8_hilo: what is left of x is at most half a step of the first, 127 of these."""
    return np.float32(prepared.scalars["scale"] / 254)


def effective_weight(prepared: Prepared) -> np.ndarray:
    """The float32 [K, N] matrix that the integer weights stand for, migration undone."""
    tensors = prepared.tensors
    if prepared.base in PER_COLUMN:
        weight = tensors["weight"].astype(np.float32) * tensors["weight_scale"]
        return weight * tensors["input_scale"][:, None] if "input_scale" in tensors else weight
    if prepared.base in DTYPE_FORMATS:
        return tensors["weight"].astype(np.float32)
    if prepared.base in GPU_FORMATS:
        return gpu_weight(prepared.base, tensors, prepared.in_features)
    bits, block = int(prepared.scalars["bits"]), int(prepared.scalars["block"])
    codes, scale = tensors["weight"], tensors["weight_scale"]
    if bits == 4:
        codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:2], block)
    weight = (codes - zero_points(prepared)[:, :, None].astype(np.float32)) * scale[:, :, None]
    return np.ascontiguousarray(weight.reshape(len(scale), -1)[:, : prepared.in_features].T, np.float32)


def zero_points(prepared: Prepared) -> np.ndarray:
    """uint8 [N, blocks]: the code that stands for zero in each block of a weight-only format."""
    shape = prepared.tensors["weight_scale"].shape
    if "weight_zero" not in prepared.tensors:
        return np.full(shape, 1 << (int(prepared.scalars["bits"]) - 1), np.uint8)
    packed = prepared.tensors["weight_zero"]
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)[:, : shape[1]]


def _prepare_per_column(action: str, weight: np.ndarray, bias: np.ndarray, x: np.ndarray | None, narrow: bool) -> Prepared:
    limit = 63 if narrow else 127
    scalars: dict[str, float | int] = {}
    tensors: dict[str, np.ndarray] = {}
    target, seen = weight, x
    if action in ("int8_static", "int8_token"):
        multipliers = None if seen is None else channel_multipliers(weight, seen, by_row=action == "int8_token")
        scalars["migrated"] = int(multipliers is not None)
        if seen is not None and multipliers is not None:
            tensors["input_scale"] = multipliers
            target, seen = weight / multipliers[:, None], seen * multipliers
    if action == "int8_token":
        found = row_range(seen)
        scalars |= {"zero": found.zero, "floor": found.floor, "two_sided": int(found.two_sided)}
    elif action in CALIBRATED:
        assert seen is not None
        scalars["scale"], scalars["zero"] = input_range(seen)
    scale = nonzero(np.abs(target).max(axis=0) / limit)
    spread = np.broadcast_to(scale, weight.shape)
    codes = rounded(target, spread, np.zeros_like(spread), -limit, limit, None if seen is None else seen.T @ seen)
    tensors |= {"weight": codes.astype(np.int8), "weight_scale": scale, "bias": bias}
    return _correct_bias(Prepared(action, tensors, scalars, *weight.shape), weight, x)


def _prepare_blocks(action: str, weight: np.ndarray, bias: np.ndarray, x: np.ndarray | None) -> Prepared:
    features, columns = weight.shape
    half = action in HALF_BITS
    bits = HALF_BITS[action] if half else 8 if action == "int8_weight" else 4
    plain = INT4_BLOCK if bits == 4 else next((b for b in INT8_BLOCKS if features % b == 0), 128 if features > 128 else 16)
    block = half_block(bits, features) if half else plain
    blocks = -(-features // block)
    grouped = np.pad(weight, ((0, blocks * block - features), (0, 0))).reshape(blocks, block, columns)
    gram = None if x is None else x.T @ x
    top = (1 << bits) - 1
    candidates = []
    scalings = [symmetric(grouped, bits)]
    if half:
        scalings = [(in_half(scale).astype(np.float32), zero) for scale, zero in scalings]
    elif bits == 4:
        scalings.append(asymmetric(grouped))
    for scale, zero in scalings:
        scales, zeros = (np.repeat(a, block, axis=0)[:features] for a in (scale, zero))
        codes = rounded(weight, scales, zeros, 0, top, gram)
        candidates.append((output_error(weight - (codes - zeros) * scales, gram), scale, zero, codes))
    _, scale, zero, codes = min(candidates, key=lambda candidate: candidate[0])
    padded = np.pad(codes, ((0, blocks * block - features), (0, 0))).T.reshape(columns, blocks, block).astype(np.uint8)
    kept = np.ascontiguousarray(scale.T, np.float16 if half else np.float32)
    tensors = {"weight": padded if bits == 8 else _nibbles(padded), "weight_scale": kept, "bias": bias}
    if np.any(zero != 1 << (bits - 1)):
        tensors["weight_zero"] = _nibbles(np.pad(zero.T.astype(np.uint8), ((0, 0), (0, blocks % 2))))
    return _correct_bias(Prepared(action, tensors, {"bits": bits, "block": block}, features, columns), weight, x)


def _correct_bias(prepared: Prepared, weight: np.ndarray, x: np.ndarray | None) -> Prepared:
    if x is None:
        return prepared
    shift = x.mean(axis=0, dtype=np.float64) @ (weight - effective_weight(prepared))
    return replace(prepared, tensors={**prepared.tensors, "bias": (prepared.tensors["bias"] + shift).astype(np.float32)})


def _nibbles(codes: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(codes[..., 0::2] | codes[..., 1::2] << 4)


def _columns(prepared: Prepared, start: int, stop: int) -> Prepared:
    last, tensors = prepared.base in COLUMNS_LAST, {}
    for name, tensor in prepared.tensors.items():
        part = tensor if name == "input_scale" else tensor[..., start:stop] if last else tensor[start:stop]
        tensors[name] = np.ascontiguousarray(part)
    return replace(prepared, tensors=tensors, out_features=int(stop - start))


def _check(
    action: str, weights: Sequence[np.ndarray], biases: Sequence[np.ndarray | None], activations: np.ndarray | None
) -> None:
    if action not in EVERY_FORMAT:
        raise InputError(f"There is no number format {action!r} for linear layers; choose one of {', '.join(EVERY_FORMAT)}.")
    if action in CALIBRATED and activations is None:
        raise InputError(
            f"{action} needs calibration inputs of the layer to fix its input range; pass them, or take int8_dynamic."
        )
    features = weights[0].shape[0]
    for weight, bias in zip(weights, biases, strict=True):
        if weight.ndim != 2 or weight.shape[0] != features or 0 in weight.shape:
            raise InputError(f"Weights that share an input must be [{features}, N]; one of them is {list(weight.shape)}.")
        if bias is not None and bias.shape != (weight.shape[1],):
            raise InputError(
                f"The bias of a [{features}, {weight.shape[1]}] weight must have {weight.shape[1]} values, not {list(bias.shape)}."
            )
        if not np.isfinite(weight).all() or (bias is not None and not np.isfinite(bias).all()):
            raise InputError(
                "A linear layer holds weights that are not finite, so no integer format can hold them; leave it as it is."
            )
    if activations is not None:
        if activations.ndim != 2 or activations.shape[1] != features or not len(activations):
            raise InputError(
                f"Calibration inputs of a layer with {features} inputs must be [M, {features}], not {list(activations.shape)}."
            )
        if not np.isfinite(activations).all():
            raise InputError(
                "The calibration inputs of a linear layer hold values that are not finite, so no input range can be had."
            )
