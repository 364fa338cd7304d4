"""New columns in the result of a linear that has any of the forms that passes leave behind, by way of its constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from .onnx_pass import CUT_OUT, Surgeon


@dataclass
class Wider:
    """What it takes to put a column before each of the places `slots` of one value. Nothing is changed until `apply`.

    `constants`: (node, input) -> its new numbers. `values`: those on the way that get wider. `blocks`: nodes that declare their columns.
    """

    surgeon: Surgeon
    count: int
    constants: dict[tuple[ir.Node, int], np.ndarray] = field(default_factory=dict)
    values: list[ir.Value] = field(default_factory=list)
    blocks: list[ir.Node] = field(default_factory=list)

    def plan(self, value: ir.Value | None, slots: Sequence[int], fill: float) -> bool:
        """Whether the columns can be had, with `fill` in them; works its way up to the matmuls."""
        if value is None:
            return False
        node = value.producer()
        if sum(not self._reads_a_length(user) for user, _ in value.uses()) != 1 or value.is_graph_output():
            return False
        self.values.append(value)
        if node is None:
            # The input of a cut-out stands for what makes it in the model; one of a model is as its caller gives it.
            return value.is_graph_input() and CUT_OUT in self.surgeon.model.metadata_props
        inputs = [self._array(each) for each in node.inputs]
        if node.op_type == "Add":
            return self._add(node, inputs, slots, fill)
        if node.op_type == "Mul" and fill == 0:
            first, second = node.inputs
            return self.plan(first, slots, 0.0) if _one_a_row(second) else _one_a_row(first) and self.plan(second, slots, 0.0)
        if node.op_type == "Cast":
            return self.plan(node.inputs[0], slots, fill)
        if node.op_type == "Slice" and len(inputs) == 4 and _first_columns(inputs):
            assert inputs[2] is not None
            self.constants[node, 2] = inputs[2] + self.count
            return self.plan(node.inputs[0], slots, fill)
        if node.op_type == "Split" and len(inputs) == 2 and inputs[1] is not None and _of_columns(node, value):
            index = list(node.outputs).index(value)
            sizes = inputs[1].copy()
            sizes[index] += self.count
            self.constants[node, 1] = sizes
            return self.plan(node.inputs[0], [int(inputs[1][:index].sum()) + slot for slot in slots], fill)
        if node.op_type == "MatMul" and fill == 0 and inputs[1] is not None:
            self._wider(node, 1, inputs[1], slots, 0)
            return True
        if node.op_type == "MatMulIntegerToFloat" and inputs[1] is not None and inputs[3] is not None:
            self._wider(node, 1, inputs[1], slots, 0)
            self._wider(node, 3, inputs[3], slots, 1)
            return self._bias(node, 6, inputs, slots, fill)
        if node.op_type == "MatMulNBits" and inputs[1] is not None and inputs[2] is not None:
            for place, array in enumerate(inputs[1:4], start=1):
                if array is not None:
                    self._wider(node, place, array, slots, 0, axis=0)
            self.blocks.append(node)
            return self._bias(node, 5, inputs, slots, fill)
        return False

    def apply(self) -> None:
        """Puts the new constants in place of the old ones, which go where nothing else reads them."""
        made: dict[tuple[ir.Value, bytes], ir.Value] = {}
        for (node, place), array in self.constants.items():
            old = node.inputs[place]
            assert old is not None
            key = old, array.tobytes()
            if key not in made:
                made[key] = self.surgeon.constant(f"{old.name}.wider", array)
            node.replace_input_with(place, made[key])
            if not old.uses() and old.is_initializer() and not old.is_graph_input():
                self.surgeon.graph.initializers.pop(str(old.name))
                self.surgeon.values.pop(str(old.name), None)
        for node in self.blocks:
            node.attributes["N"] = ir.AttrInt64("N", node.attributes.get_int("N", 0) + self.count)
        for value in self.values:
            if value.shape is not None and isinstance(value.shape[-1], int):
                value.shape = ir.Shape([*value.shape[:-1], value.shape[-1] + self.count])

    def _add(self, node: ir.Node, inputs: Sequence[np.ndarray | None], slots: Sequence[int], fill: float) -> bool:
        for place, array in enumerate(inputs):
            other = node.inputs[1 - place]
            if array is not None and other is not None and array.ndim and array.shape[-1] > 1:
                self._wider(node, place, array, slots, fill)
                return self.plan(other, slots, 0.0)
        first, second = node.inputs
        return first is not None and second is not None and self.plan(first, slots, fill) and self.plan(second, slots, 0.0)

    def _bias(self, node: ir.Node, place: int, inputs: Sequence[np.ndarray | None], slots: Sequence[int], fill: float) -> bool:
        array = inputs[place] if place < len(inputs) else None
        if array is None or array.ndim != 1:
            return fill == 0 and (place >= len(inputs) or node.inputs[place] is None)
        self._wider(node, place, array, slots, fill)
        return True

    def _wider(self, node: ir.Node, place: int, array: np.ndarray, slots: Sequence[int], fill: float, axis: int = -1) -> None:
        self.constants[node, place] = np.insert(array, list(slots), np.array(fill).astype(array.dtype), axis=axis)

    def _reads_a_length(self, node: ir.Node) -> bool:
        """Whether a reader of a value takes a size of it alone, and not that of its columns."""
        indices = [self._array(user.inputs[1]) for user, _ in node.outputs[0].uses() if user.op_type == "Gather"]
        alone = node.op_type == "Shape" and len(indices) == len(node.outputs[0].uses())
        return alone and all(index is not None and (index >= 0).all() and (index < 2).all() for index in indices)

    def _array(self, value: ir.Value | None) -> np.ndarray | None:
        tensor = None if value is None else ir.convenience.get_const_tensor(value)
        return None if tensor is None else tensor.numpy()


def _first_columns(inputs: Sequence[np.ndarray | None]) -> bool:
    """Whether a Slice keeps columns from the first one on, and all of every other axis."""
    start, end, axis = (None if array is None or array.size != 1 else int(array.item()) for array in inputs[1:])
    return start == 0 and axis == -1 and end is not None and end > 0


def _of_columns(node: ir.Node, part: ir.Value) -> bool:
    """Whether a Split into `part` and others cuts the last axis, which is the third of [B, N, columns]."""
    last = 2 if part.shape is None else len(part.shape) - 1
    return node.attributes.get_int("axis", 0) in (-1, last)


def _one_a_row(value: ir.Value | None) -> bool:
    """Whether a value has one number for each row, or for all: by its shape, or, where that is not known, since it is a largest value of
    rows."""
    if value is None:
        return False
    tensor = ir.convenience.get_const_tensor(value)
    shape = value.shape if tensor is None else tensor.shape
    if shape is not None:
        return not len(shape) or shape[-1] == 1
    node = value.producer()
    if node is not None and node.op_type == "Max":
        return any(_one_a_row(each) for each in node.inputs)
    return node is not None and node.op_type == "ReduceMax" and bool(node.attributes.get_int("keepdims", 1))
