"""Cuts a few ops out of an ONNX model as a model of their own, so that one site can be timed alone, as it is and rewritten."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from ..cost_model.errors import InputError
from ..cost_model.net import Net
from .onnx_pass import CUT_OUT

SHAPE_OPERANDS = {"Reshape": 1, "Expand": 1}


def extract(model: ir.Model, net: Net, op_ids: Collection[str]) -> ir.Model:
    """The model made of exactly the nodes `op_ids` of `model`, in their order, with the initialisers they read (shared, not copied).

    Its inputs are the computed values that cross in, with the concrete shapes [elements] that `net` holds, its outputs the values
    that are read outside (but for their shape) or are outputs of `model`. Names stay, so that the same sites apply to it. The shape
    operand of a Reshape or Expand that would cross in becomes a constant taken from `net`, as no random input could stand for it.
    Raises InputError if `model` lacks one of the ops, if the shape or type of an input is not known, or if an op holds a nested graph.
    """
    wanted = set(op_ids)
    nodes = [node for node in model.graph if node.name in wanted]
    missing = wanted - {str(node.name) for node in nodes}
    if missing:
        raise InputError(f"The op {min(missing)!r} is not in the model, so that it cannot be cut out of it.")
    inside = {value: value for node in nodes for value in node.outputs}
    cutter = _Cutter(net)
    copies = [cutter.copy(node, inside) for node in nodes]
    outputs = [value for value in inside if value.is_graph_output() or _read_outside(value, wanted)]
    graph = ir.Graph(
        list(cutter.inputs.values()), [cutter.values[value] for value in outputs], nodes=copies,
        initializers=list(cutter.initializers.values()), opset_imports=dict(model.opset_imports), name="site",
    )  # fmt: skip
    return ir.Model(
        graph, ir_version=model.ir_version, functions=list(model.functions.values()), metadata_props={CUT_OUT: "true"}
    )


def _read_outside(value: ir.Value, wanted: Collection[str]) -> bool:
    """Whether an op outside reads the numbers: a Shape needs none, and what follows from it are constants here."""
    return any(user.name not in wanted and user.op_type != "Shape" for user, _ in value.uses())


class _Cutter:
    def __init__(self, net: Net) -> None:
        self.net = net
        self.values: dict[ir.Value, ir.Value] = {}
        self.inputs: dict[str, ir.Value] = {}
        self.initializers: dict[str, ir.Value] = {}

    def copy(self, node: ir.Node, inside: Collection[ir.Value]) -> ir.Node:
        if any(attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in node.attributes.values()):
            raise InputError(f"The op {node.name!r} ({node.op_type}) holds a nested graph, so that it cannot be timed alone.")
        shape_operand = SHAPE_OPERANDS.get(node.op_type) if node.domain == "" else None
        read: list[ir.Value | None] = []
        for index, value in enumerate(node.inputs):
            if value is None or value in inside:
                read.append(None if value is None else self.values[value])
            elif index == shape_operand and ir.convenience.get_const_tensor(value) is None:
                read.append(self._shape(value, str(node.outputs[0].name)))
            else:
                read.append(self._outside(value))
        outputs = [self._copy_value(value) for value in node.outputs]
        return ir.Node(
            node.domain, node.op_type, read, node.attributes.values(), overload=node.overload, outputs=outputs, name=node.name,
            metadata_props=dict(node.metadata_props),
        )  # fmt: skip

    def _outside(self, value: ir.Value) -> ir.Value:
        if value in self.values:
            return self.values[value]
        copy = self._copy_value(value)
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is not None:
            copy.const_value, copy.shape, copy.type = tensor, ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
            self.initializers[str(value.name)] = copy
        elif copy.type is None or copy.shape is None or not copy.shape.is_static():
            raise InputError(
                f"The shape or type of {value.name!r} is not known, so that the ops that read it cannot be timed alone."
            )
        else:
            self.inputs[str(value.name)] = copy
        return copy

    def _copy_value(self, value: ir.Value) -> ir.Value:
        known = self.net.values.get(str(value.name))
        shape, kind = value.shape, value.type
        if known is not None and known.shape is not None:
            shape = ir.Shape(known.shape)
        if kind is None and known is not None and known.dtype is not None:
            kind = ir.TensorType(ir.DataType.from_numpy(np.dtype(known.dtype)))
        self.values[value] = ir.Value(name=value.name, shape=shape, type=kind)
        return self.values[value]

    def _shape(self, value: ir.Value, output: str) -> ir.Value:
        shape = self.net.shape(output)
        if shape is None:
            raise InputError(f"The shape of {output!r} is not known, so that the op that makes it cannot be timed alone.")
        name = f"{output}.shape"
        tensor = ir.tensor(np.array(shape, np.int64), name=name)
        self.initializers[name] = ir.Value(
            name=name, shape=ir.Shape([len(shape)]), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        return self.initializers[name]
