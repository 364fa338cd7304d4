"""Casts that undo each other, which rewrites of neighbours leave behind."""

from __future__ import annotations

import onnx_ir as ir

from .onnx_pass import Surgeon


def drop_round_trips(surgeon: Surgeon) -> None:
    """Readers of what was cast from float16 to float32 and back read the float16 value itself, which has the same numbers; Casts that
    nothing reads any more go. A result of the graph keeps its own."""
    for node in list(surgeon.graph):
        wide = _cast_to(node, ir.DataType.FLOAT16)
        widening = None if wide is None else wide.producer()
        narrow = None if widening is None else _cast_to(widening, ir.DataType.FLOAT)
        if narrow is not None and narrow.dtype == ir.DataType.FLOAT16 and not node.outputs[0].is_graph_output():
            node.outputs[0].replace_all_uses_with(narrow)
            surgeon.sweep([node])


def _cast_to(node: ir.Node, dtype: ir.DataType) -> ir.Value | None:
    """What a Cast to `dtype` reads, None for other nodes."""
    return node.inputs[0] if node.op_type == "Cast" and node.attributes.get_int("to", 0) == dtype.value else None
