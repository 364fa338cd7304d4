"""Folded operands and results of an attention as onnxruntime's operator packs them, with one Transpose where the views of
`onnx_unfold_heads` and a second Transpose would stand."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..cost_model.net import Net, Op
from .onnx_pass import Surgeon, operation
from .onnx_shapes import Sizes

SWAP_ROWS = (1, 0, 2)


def before_folding(value: ir.Value, transposed: bool) -> tuple[ir.Value, int] | None:
    """([N, B * H, D], H) where `value`, [B, H, N, D] or [B, H, D, N] if `transposed`, is the unfolded view of it transposed."""
    target = _target(value)
    if target is None or len(target) != 4 or target[0] != -1 or target[2:] != (0, 0):
        return None
    folded = _made_by(_made_by(value, "Reshape"), "Unsqueeze")
    source = _made_by(folded, "Transpose", perm=(1, 2, 0) if transposed else SWAP_ROWS)
    return None if source is None else (source, target[1])


def pack(surgeon: Surgeon, source: ir.Value, wide: int, name: str) -> list[ir.Node]:
    """[N, B * H, D] as [B, N, H * D]; `wide` is H * D."""
    shape = surgeon.shared(np.array([0, -1, wide], np.int64), f"rows_of_{wide}")
    apart = operation("Reshape", [source, shape], f"{name}.rows")
    return [apart, operation("Transpose", [apart.outputs[0]], f"{name}.packed", perm=SWAP_ROWS)]


def unpack(surgeon: Surgeon, result: ir.Value, width: int, name: str) -> list[ir.Node]:
    """[B, N, H * D] as [N, B * H, D]; `width` is D."""
    rows = operation("Transpose", [result], f"{name}.rows", perm=SWAP_ROWS)
    shape = surgeon.shared(np.array([0, -1, width], np.int64), f"rows_of_{width}")
    return [rows, operation("Reshape", [rows.outputs[0], shape], f"{name}.folded")]


def after_folding(output: ir.Value) -> ir.Value | None:
    """[N, B * H, D] that nothing but the folding and a transposing of `output`, [B, H, N, D], makes of it."""
    joined = only_reader(output, "Reshape")
    if joined is None or _target(joined) != (1, -1, 0, 0, 1):
        return None
    squeezed = only_reader(joined, "Squeeze")
    swapped = None if squeezed is None else only_reader(squeezed, "Transpose")
    return swapped if _made_by(swapped, "Transpose", perm=SWAP_ROWS) is not None else None


def last_size(known: Sizes | None) -> int:
    """The number of columns where it is known, else 0."""
    return known[-1] if known and isinstance(known[-1], int) else 0


def folding_ops(net: Net, operands: tuple[str, ...], output: str) -> tuple[str, ...]:
    """The ops of all these views around an attention that nothing else reads."""
    found: list[str] = []
    for name in operands:
        chain = _chain(net, net.producer(name), ("reshape", "unsqueeze", "transpose"))
        found += [op.id for op in chain if len(net.consumers(op.output)) == 1]
    readers = net.consumers(output)
    for kind in ("reshape", "squeeze", "transpose"):
        if len(readers) != 1 or readers[0].kind != kind:
            return tuple(found)
        found.append(readers[0].id)
        readers = net.consumers(readers[0].output)
    return tuple(found)


def _chain(net: Net, op: Op | None, kinds: tuple[str, ...]) -> list[Op]:
    """The ops of these kinds one above the other, [] if they are others."""
    found: list[Op] = []
    for kind in kinds:
        if op is None or op.kind != kind:
            return []
        found.append(op)
        op = net.producer(op.inputs[0])
    return found


def _target(value: ir.Value) -> tuple[int, ...] | None:
    node = value.producer()
    if node is None or node.op_type != "Reshape" or node.inputs[1] is None:
        return None
    tensor = ir.convenience.get_const_tensor(node.inputs[1])
    return None if tensor is None else tuple(int(size) for size in tensor.numpy())


def _made_by(value: ir.Value | None, op_type: str, perm: tuple[int, ...] = ()) -> ir.Value | None:
    """What the op of this type, and this permutation, made `value` of."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != op_type or (perm and tuple(node.attributes.get_ints("perm", ())) != perm):
        return None
    return node.inputs[0]


def only_reader(value: ir.Value, op_type: str) -> ir.Value | None:
    """What the one op that reads `value` makes of it, if it is of that type and reads it as its data."""
    users = list(value.uses())
    if len(users) != 1 or value.is_graph_output() or users[0].node.op_type != op_type or users[0].idx != 0:
        return None
    return users[0].node.outputs[0]
