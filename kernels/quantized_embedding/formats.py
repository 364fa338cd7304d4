"""A table of embeddings in integer codes: int8 with one scale a row, int4 with one for each 32 columns of a row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...cost_model.errors import InputError
from ..quantized_linear.block_scales import nonzero, symmetric

BITS = {"int8_rows": 8, "int4_rows": 4}
"""Action -> bits of a code. Codes are unsigned; the middle, 2^(bits - 1), stands for zero."""

INT4_GROUP = 32
SMALLEST_GROUP = 16
"""com.microsoft.GatherBlockQuantized takes groups of 16 and more, powers of two; one may be wider than the table."""


@dataclass(frozen=True, eq=False)
class PreparedTable:
    """A table [V, D]: `codes` uint8 [V, D], or [V, D / 2] with the low nibble first; `scale` float32 [V, ceil(D / group)]."""

    action: str
    codes: np.ndarray
    scale: np.ndarray
    group: int
    width: int

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return BITS[self.action]


def refusal(action: str, width: int) -> str:
    """Why rows of `width` numbers cannot be held in `action`, "" if they can."""
    return (
        "two codes of 4 bits share a byte, and its rows have an odd number of columns"
        if BITS[action] == 4 and width % 2
        else ""
    )


def group_of(action: str, width: int) -> int:
    """Columns that share a scale: `INT4_GROUP`, or with 8 bits the power of two that takes in a whole row."""
    return INT4_GROUP if BITS[action] == 4 else max(SMALLEST_GROUP, 1 << (width - 1).bit_length())


def prepare_table(action: str, table: np.ndarray) -> PreparedTable:
    """`table` [V, D] rounded to nearest. int8 codes are symmetric; int4 gives the value of largest magnitude of a group the code 0, one
    step farther from the middle than the largest code. Where every number is one of float16 scales are too, as tables in float16 keep them
    so. InputError for unknown actions, odd widths in 4 bits, and values not finite."""
    if action not in BITS:
        raise InputError(f"There is no number format {action!r} for tables of embeddings; choose one of {', '.join(BITS)}.")
    rows, width = table.shape
    if reason := refusal(action, width):
        raise InputError(f"A table of {rows} x {width} cannot be held in {action}: {reason}.")
    table = np.asarray(table, np.float32)
    if not np.isfinite(table).all():
        raise InputError("A table of embeddings holds values that are not finite, so no integer format can hold them.")
    group, middle = group_of(action, width), 1 << (BITS[action] - 1)
    padded = np.pad(table, ((0, 0), (0, -width % group))).reshape(rows, -1, group)
    scale = nonzero(np.abs(padded).max(axis=2) / 127) if middle == 128 else symmetric(padded.transpose(0, 2, 1), 4)[0]
    if _is_half(table):
        scale = _to_half(scale)
    codes = np.clip(np.rint(padded / scale[..., None]) + middle, 0, 2 * middle - 1).astype(np.uint8)
    codes = codes.reshape(rows, -1)[:, :width]
    packed = codes if middle == 128 else codes[:, 0::2] | codes[:, 1::2] << 4
    return PreparedTable(action, np.ascontiguousarray(packed), scale, group, width)


def stand_in(action: str, rows: int, width: int) -> PreparedTable:
    """A table of the right sizes that holds zeros, for timing alone."""
    group, bits = group_of(action, width), BITS[action]
    codes = np.full((rows, width * bits // 8), 128 if bits == 8 else 136, np.uint8)
    return PreparedTable(action, codes, np.ones((rows, -(-width // group)), np.float32), group, width)


def looked_up(prepared: PreparedTable, indices: np.ndarray) -> np.ndarray:
    """float32 [..., D]: the rows that `indices` [...] name; as in ONNX, a negative one counts from the end."""
    codes, scale = prepared.codes[indices], prepared.scale[indices]
    if prepared.bits == 4:
        codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:-1], -1)
    spread = np.repeat(scale, prepared.group, axis=-1)[..., : prepared.width]
    return (codes.astype(np.float32) - (1 << (prepared.bits - 1))) * spread


def _is_half(table: np.ndarray) -> bool:
    with np.errstate(over="ignore"):
        return np.array_equal(table, table.astype(np.float16))


def _to_half(scale: np.ndarray) -> np.ndarray:
    """Scales rounded to float16, none of them to zero, as float32."""
    sizes = np.maximum(np.abs(scale).astype(np.float16), np.finfo(np.float16).smallest_subnormal)
    return np.copysign(sizes.astype(np.float32), scale)
