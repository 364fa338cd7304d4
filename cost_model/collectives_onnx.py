"""Collective operations of ONNX graphs on one machine alone: shapes are inferred, and probes run, with stand-ins of the same shapes."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

_SAME = frozenset([("com.microsoft", "AllReduce"), ("com.microsoft", "AllToAll"), ("", "MemcpyFromHost"), ("", "MemcpyToHost")])
_GATHER = ("com.microsoft", "AllGather")


def stand_in(nodes: Iterable[onnx.NodeProto]) -> None:
    """Puts an operator that any runtime has in place of each collective one, bodies of control flow included: the shapes stay."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                stand_in(attribute.g.node)
        called = (node.domain, node.op_type)
        if called in _SAME or called == _GATHER:
            native = {attribute.name: attribute.i for attribute in node.attribute}
            del node.attribute[:]
            node.domain, node.op_type = "", "Identity"
            if called == _GATHER:
                node.op_type = "Concat"
                node.input.extend(list(node.input) * (max(1, native.get("group_size", 1)) - 1))
                node.attribute.append(onnx.helper.make_attribute("axis", native.get("axis", 0)))
