"""One Gelu in the place of the five ops that exporters write it as, where onnxruntime would no longer see that they are one."""

from __future__ import annotations

import math

import onnx_ir as ir

from .onnx_pass import MICROSOFT, Surgeon, operation

TOLERANCE = 1e-4


def fuse_gelu(surgeon: Surgeon, x: ir.Value) -> bool:
    """x / sqrt(2) -> Erf -> + 1 -> * x -> * 0.5, or with the half taken first, becomes com.microsoft.Gelu(x); whether it was there.

    onnxruntime gives every reader of a DequantizeLinear one of its own, before it looks for a Gelu, which reads x twice.
    """
    for scaled in _readers(x):
        erf = _only(scaled) if _scales(surgeon, scaled, x, 1 / math.sqrt(2)) else None
        plus = _only(erf) if erf is not None and erf.op_type == "Erf" else None
        product = _only(plus) if plus is not None and plus.op_type == "Add" and _other(surgeon, plus, erf) == 1 else None
        if product is None or product.op_type != "Mul" or plus is None:
            continue
        factor = next((value for value in product.inputs if value is not plus.outputs[0]), None)
        half = factor.producer() if factor is not None else None
        if factor is x:
            last = _only(product)
            if last is None or not _scales(surgeon, last, product.outputs[0], 0.5):
                continue
        elif half is not None and _scales(surgeon, half, x, 0.5):
            last = product
        else:
            continue
        old = last.outputs[0]
        node = operation("Gelu", [x], f"{last.name}.gelu", domain=MICROSOFT)
        surgeon.graph.insert_before(last, node)
        new, name = node.outputs[0], str(old.name)
        new.shape, new.type = old.shape, old.type
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name, new.name = f"{name}.before", name
        surgeon.nodes[str(node.name)], surgeon.values[name] = node, new
        surgeon.sweep([last])
        surgeon.import_domain(MICROSOFT)
        return True
    return False


def _readers(value: ir.Value) -> list[ir.Node]:
    return list(dict.fromkeys(user for user, _ in value.uses()))


def _only(node: ir.Node | None) -> ir.Node | None:
    """The one reader of a node's result; None where there are several, or where it is an output."""
    if node is None or node.outputs[0].is_graph_output():
        return None
    readers = _readers(node.outputs[0])
    return readers[0] if len(readers) == 1 else None


def _other(surgeon: Surgeon, node: ir.Node, before: ir.Node | None) -> float | None:
    """The number that a node of two operands reads beside what `before` wrote."""
    for value in node.inputs:
        if value is not None and (before is None or value is not before.outputs[0]):
            return surgeon.scalar(str(value.name))
    return None


def _scales(surgeon: Surgeon, node: ir.Node, x: ir.Value, factor: float) -> bool:
    """Whether a node is x times a number close to `factor`."""
    if node.op_type not in ("Mul", "Div") or (node.inputs[0] is not x and (node.op_type == "Div" or node.inputs[1] is not x)):
        return False
    constant = next((value for value in node.inputs if value is not x), None)
    number = surgeon.scalar(str(constant.name)) if constant is not None else None
    if not number:
        return False
    return abs((1 / number if node.op_type == "Div" else number) / factor - 1) < TOLERANCE
