"""`NodeFacts`: what is known of one ONNX node when its attributes are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Shape = tuple[int, ...] | None


@dataclass(frozen=True)
class NodeFacts:
    """What is known of one node: native attributes, operand names ("" if absent), their shapes and, where constant, arrays."""

    op_type: str
    opset: int
    native: Mapping[str, Any]
    inputs: tuple[str, ...]
    shapes: Sequence[Shape]
    output_shapes: Sequence[Shape]
    constant: Callable[[int], np.ndarray | None]
    number_of_outputs: int

    def shape(self, index: int) -> Shape:
        return self.shapes[index] if index < len(self.shapes) else None

    def rank(self, index: int = 0) -> int | None:
        shape = self.shape(index)
        return None if shape is None else len(shape)

    def integers(self, name: str, index: int) -> list[int] | None:
        """A list that older opsets hold in attribute `name` and newer ones in operand `index`; None if absent or computed."""
        if name in self.native:
            value = self.native[name]
            return [int(v) for v in value] if isinstance(value, (list, tuple)) else [int(value)]
        array = self.constant(index)
        return None if array is None else [int(v) for v in np.asarray(array).reshape(-1)]


def front(axis: int, rank: int | None) -> int:
    """`axis` counted from the front; as it is if the rank is unknown."""
    return axis + rank if axis < 0 and rank is not None else axis


def back(axis: int, rank: int | None) -> int:
    """`axis` counted from the back (negative); as it is if the rank is unknown."""
    return axis - rank if axis >= 0 and rank is not None else axis
