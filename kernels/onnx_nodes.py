"""Nodes and constants of onnx_ir with names, and where they are known dtypes and shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir


def make_node(
    kind: str, inputs: Sequence[ir.Value | None], outputs: Sequence[str], domain: str = "", **attributes: Any
) -> ir.Node:
    """A node that has the name of the first of its `outputs`."""
    node = ir.node(kind, inputs, attributes=attributes, domain=domain, num_outputs=len(outputs), name=outputs[0])
    for value, label in zip(node.outputs, outputs, strict=True):
        value.name = label
    return node


def typed(value: ir.Value, dtype: ir.DataType, shape: ir.Shape | None) -> ir.Value:
    """The same value, of that dtype and shape."""
    value.type = ir.TensorType(dtype)
    value.shape = shape
    return value


def make_initializer(name: str, array: np.ndarray) -> ir.Value:
    """A constant of that name."""
    tensor = ir.tensor(np.asarray(array, order="C"), name=name)
    return ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
