"""Makes ONNX nodes one by one, with names of their own, equal nodes and equal constants once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir


class Builder:
    """Collects `nodes` in order and the `initializers` they read, all named after `name`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[ir.Node] = []
        self.made: dict[tuple, ir.Value | list[ir.Value]] = {}
        self.initializers: dict[tuple[bytes, str, tuple[int, ...]], ir.Value] = {}

    def __call__(self, kind: str, *inputs: ir.Value, outputs: int = 1, label: str = "", **attributes: object) -> Any:
        """The value that a node makes, or a list of `outputs` of them; equal nodes are made once."""
        key = (kind, *map(id, inputs), *sorted(attributes.items()))
        if key in self.made:
            return self.made[key]
        name = f"{self.name}.{label or f'{len(self.nodes)}_{kind}'}"
        values = [ir.Value(name=name if outputs == 1 else f"{name}.{index}") for index in range(outputs)]
        self.nodes.append(ir.node(kind, inputs, attributes, outputs=values, name=name))  # type: ignore[arg-type]
        self.made[key] = values[0] if outputs == 1 else values
        return self.made[key]

    def scan(self, over: Sequence[tuple[ir.Value, ir.DataType]], step: Callable[..., ir.Value], rank: int) -> ir.Value:
        """What `step` makes of a builder and of an entry of each of `over`, float32 of that rank, stacked. A step may read any value made
        before."""
        inner = Builder(f"{self.name}.{len(self.nodes)}_step")
        inner.initializers = self.initializers
        entries = [ir.Value(name=f"{inner.name}.{index}", type=ir.TensorType(kind)) for index, (_, kind) in enumerate(over)]
        result = step(inner, *entries)
        result.type, result.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([None] * rank)
        body = ir.Graph(entries, [result], nodes=inner.nodes, name=inner.name)
        return self("Scan", *(value for value, _ in over), body=body, num_scan_inputs=len(over))

    def array(self, array: np.ndarray) -> ir.Value:
        """That array as an initialiser."""
        array = np.asarray(array, order="C")
        key = (array.tobytes(), str(array.dtype), array.shape)
        if key not in self.initializers:
            # The name of the outermost builder: steps share its initialisers.
            tensor = ir.tensor(array, name=f"{self.name}.constant_{len(self.initializers)}")
            self.initializers[key] = ir.Value(
                name=tensor.name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
            )
        return self.initializers[key]

    def sizes(self, *numbers: int) -> ir.Value:
        """Those integers as a list."""
        return self.array(np.array(numbers, np.int64))

    def number(self, number: int) -> ir.Value:
        """That integer as a scalar."""
        return self.array(np.array(number, np.int64))

    def float(self, number: float) -> ir.Value:
        """That float32 as a scalar."""
        return self.array(np.array(number, np.float32))

    def join(self, *sizes: int | ir.Value) -> ir.Value:
        """A shape of numbers and of lists that are computed."""
        if all(isinstance(size, int) for size in sizes):
            return self.sizes(*sizes)  # type: ignore[arg-type]
        return self("Concat", *(self.sizes(size) if isinstance(size, int) else size for size in sizes), axis=0)

    def range(self, end: ir.Value) -> ir.Value:
        """0, 1, ... up to the one element of `end`."""
        return self("Range", self.number(0), self("Squeeze", end), self.number(1))

    def reshape(self, x: ir.Value, *sizes: int | ir.Value) -> ir.Value:
        """`x` in that shape: 0 keeps an axis, -1 takes what is left."""
        return self("Reshape", x, self.join(*sizes))

    def unsqueeze(self, x: ir.Value, *axes: int) -> ir.Value:
        """`x` with axes of one."""
        return self("Unsqueeze", x, self.sizes(*axes))

    def ceil_div(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """ceil(x / y) of positive integers."""
        return self("Div", self("Add", x, self("Sub", y, self.sizes(1))), y)

    def end_padded(self, x: ir.Value, rank: int, axis: int, count: ir.Value, fill: ir.Value) -> ir.Value:
        """`x` of that rank with `count` entries of `fill` behind it on that axis."""
        before, after = [0] * rank, [count if each == axis else 0 for each in range(rank)]
        return self("Pad", x, self.join(*before, *after), fill)
