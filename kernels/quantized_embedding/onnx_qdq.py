"""A table of embeddings in codes in standard ONNX alone: the codes and scales of a row are gathered, then made floating point."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from ..quantized_linear.onnx_body import Body, Maker
from .formats import PreparedTable

OPSET = 21
"""The operator set since which DequantizeLinear has blocks, which a scale for each row of codes needs."""


def runtime_domain_imports() -> dict[str, int]:
    """No operator set besides the default one."""
    return {}


def table_nodes(table: PreparedTable, indices: ir.Value, dtype: str, name: str) -> Body:
    """The rows [..., D] that integer `indices` [...] name, in the float `dtype`. Codes of 8 bits are signed. A byte of two codes of 4 bits
    holds a column of the first half of a row below one of the second half, so that the halves need only be put side by side."""
    made = _Builder(name)
    scale = made("Gather", [made.constant("scale", table.scale.astype(np.dtype(dtype))), indices], "row_scale")
    if table.bits == 8:
        signed = (table.codes.astype(np.int16) - 128).astype(np.int8)
        inputs = [made("Gather", [made.constant("codes", signed), indices], "row"), scale]
    else:
        row = made("Gather", [made.constant("codes", _halves(table)), indices], "row")
        low = made("BitwiseAnd", [row, made.constant("low_bits", np.array(15, np.uint8))], "low")
        high = made("BitShift", [row, made.constant("four", np.array(4, np.uint8))], "high", direction="RIGHT")
        codes = made("Concat", [low, high], "row_codes", axis=-1)
        middle = made.constant("middle", np.array(8, np.uint8))
        inputs = [codes, scale, made("Expand", [middle, made("Shape", [scale], "scale_shape")], "zero")]
    group = min(table.group, table.width)
    output = made("DequantizeLinear", inputs, "rows", axis=-1, block_size=group)
    return Body(made.nodes, output, made.initializers)


class _Builder(Maker):
    """Nodes whose results have the dtypes and shapes that inference gives them."""

    def __call__(self, kind: str, inputs: list[ir.Value], role: str, **attributes: Any) -> ir.Value:
        node = ir.node(kind, inputs, attributes, name=f"{self.name}_{role}")
        node.outputs[0].name = node.name
        self.nodes.append(node)
        return node.outputs[0]


def _halves(table: PreparedTable) -> np.ndarray:
    """uint8 [V, D / 2]: column j in the low bits of byte j, column D / 2 + j in its high ones."""
    codes = np.stack([table.codes & 15, table.codes >> 4], axis=-1).reshape(len(table.codes), -1)
    half = table.width // 2
    return codes[:, :half] | codes[:, half:] << 4
