"""The loop nests of one op: what its traffic depends on besides its compulsory bytes, before any device gives it a memory."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, prod

from . import kinds
from .counts_traffic import item_bytes, traffic, value_bytes
from .net import Net, Op
from .operand_sizes import Unknown, attention_sizes, einsum_sizes, operand, shape_of
from .tile_reuse import Extents, Nest, Product, Scores, Steps, Window
from .weight_copy import copied_bytes

LEAST_PARTIAL = 4.0
"""Bytes of a partial sum: matrix units and vector units for 8-bit integers add up in 32 bits."""

Nests = tuple[Nest, ...]


def nests(op: Op, net: Net) -> Nests:
    """The nests of products, convolutions, attention and recurrence; () for every other kind, which moves its compulsory bytes and no
    more: each element is needed once. Raises Unknown for a shape or dtype that is missing."""
    builder = BUILDERS.get(op.kind)
    if builder is None or any(value_bytes(name, net) == 0 for name in (*op.inputs, *op.outputs) if name in net.values):
        return ()
    return builder(op, net)


def _item(net: Net, name: str) -> float:
    value = net.values.get(name)
    size = item_bytes(value.dtype if value else None)
    if size is None:
        raise Unknown(f"the element size of {name!r} is not known")
    return size


def _partial(op: Op, net: Net) -> float:
    # An output that nobody reads has no name; a recurrence may leave out its first.
    return max(LEAST_PARTIAL, _item(net, next(filter(None, op.outputs), op.inputs[0])))


def _matmul(op: Op, net: Net) -> Nests:
    """Rows that share the right operand are one product, and columns that share the left one."""
    a, b = shape_of(net, operand(op, 0)), shape_of(net, operand(op, 1))
    if not a or not b:
        raise Unknown("a matmul of a scalar")
    results = prod(shape_of(net, op.output))
    inner = a[-2] if op.attributes.get("transpose_a") and len(a) > 1 else a[-1]
    columns = 1 if len(b) == 1 else b[-2] if op.attributes.get("transpose_b") else b[-1]
    batch = prod(b[:-2])
    rows = results // (columns * batch)
    if prod(a[:-2]) == 1:
        batch, columns = 1, columns * batch
    return (Product(batch, rows, inner, columns, _item(net, op.inputs[0]), _item(net, op.inputs[1]), _partial(op, net)),)


def _matmul_nbits(op: Op, net: Net) -> Nests:
    """The packed weights stream by as they are stored, or as the copy that was made of them; a kernel that says how many rows it takes at a
    time (`row_tile`) needs all of them again for the next ones."""
    a, columns = shape_of(net, operand(op, 0)), shape_of(net, op.output)[-1]
    packed = value_bytes(operand(op, 1), net)
    if packed is None:
        raise Unknown("the size of packed weights")
    weight = (copied_bytes(op, net) or packed) / (a[-1] * columns)
    rows = prod(a[:-1])
    at_once = min(rows, int(op.attributes.get("row_tile") or rows))
    tiles = ceil(rows / at_once)
    product = Product(tiles, at_once, a[-1], columns, _item(net, op.inputs[0]), weight, _partial(op, net))
    return (product, Steps(packed, tiles)) if tiles > 1 else (product,)


def _conv(op: Op, net: Net) -> Nests:
    """A transposed convolution is the product of its input pixels and their weights; where its results overlap they are added in place."""
    x, weight, out = shape_of(net, operand(op, 0)), shape_of(net, operand(op, 1)), shape_of(net, op.output)
    window = weight[2:]
    space = out[len(out) - len(window) :]
    groups = int(op.attributes.get("groups", 1))
    items = _item(net, op.inputs[0]), _item(net, op.inputs[1]), _partial(op, net)
    if op.attributes.get("transposed"):
        inputs = weight[0] // groups
        return (Product(groups, prod(x) // (inputs * groups), inputs, prod(weight[1:]), *items),)
    if not window or len(out) <= len(window):
        raise Unknown("the layout of a convolution")
    dilations = op.attributes.get("dilations") or [1] * len(window)
    strides = op.attributes.get("strides") or [1] * len(window)
    kernel = tuple((k - 1) * d + 1 for k, d in zip(window, dilations, strict=True))
    step = tuple(min(s, k) for s, k in zip(strides, kernel, strict=True))
    read = traffic(op, net).reads[op.inputs[0]]
    return (
        Window(
            images=prod(out[: -len(window) - 1]),
            groups=groups,
            inputs=weight[1],
            outputs=max(1, weight[0] // groups),
            extent=_extents(space),
            kernel=_extents(kernel),
            step=_extents(step),
            taps=prod(window),
            read=read,
            input=items[0],
            weight=items[1],
            partial=items[2],
        ),
    )


def _extents(sizes: tuple[int, ...]) -> Extents:
    """Sizes by axis as (first, all between, last), with 1 for an axis that is not there."""
    return (sizes[0] if len(sizes) > 1 else 1, prod(sizes[1:-1]), sizes[-1])


def _attention(op: Op, net: Net) -> Nests:
    """Fused attention. Heads that share a key read it once."""
    x, w = shape_of(net, operand(op, 0)), shape_of(net, operand(op, 1))
    item, partial = _item(net, op.inputs[0]), _partial(op, net)
    causal = bool(op.attributes.get("is_causal"))
    if op.kind == "fused_attention" and len(w) == 2:
        heads = int(op.attributes.get("num_heads") or op.attributes.get("heads") or 1)
        depth = w[1] // 3 // heads
        projection = Product(1, prod(x[:-1]), w[0], w[1], item, _item(net, op.inputs[1]), partial)
        batch = prod(x[:-2]) * heads
        return projection, Scores(batch, x[-2], x[-2], depth, depth, item, item, partial, causal)
    found = attention_sizes(op, net)
    shared = max(1, found.heads // max(1, found.kv_heads))
    batch, rows = found.batch * found.heads // shared, found.queries * shared
    key = _item(net, op.inputs[1])
    return (Scores(batch, rows, found.keys, found.depth, found.value_depth, item, key, partial, causal),)


def _einsum(op: Op, net: Net) -> Nests:
    """Two operands are a batch of products; one, or more than two, moves its compulsory bytes."""
    found = einsum_sizes(op, net)
    if len(found.operands) != 2:
        return ()
    a, b, result = set(found.operands[0]), set(found.operands[1]), set(found.result)
    left, right = (_item(net, name) for name in op.inputs if name)
    batch, inner = found.size(a & b & result), found.size(a & b - result)
    return (Product(batch, found.size(a - b), inner, found.size(b - a), left, right, _partial(op, net)),)


def _recurrent(op: Op, net: Net) -> Nests:
    """The weights of the input meet all steps in one product; those of the state are needed again in every step."""
    x = shape_of(net, operand(op, 0))
    item = _item(net, op.inputs[0])
    steps = x[1] if op.attributes.get("layout") else x[0]
    shapes = [shape_of(net, name) for name in op.inputs[1:] if name]
    if len(shapes) > 1 and len(shapes[0]) == len(shapes[1]) == 3:
        pairs = [(shapes[0][1:], shapes[1][1:])] * shapes[0][0]
    else:
        matrices = [shape for shape in shapes if len(shape) == 2]
        pairs = list(zip(matrices[::2], matrices[1::2], strict=False))
    found: list[Nest] = []
    for of_input, of_state in pairs:
        found.append(Product(1, prod(x[:-1]), of_input[1], of_input[0], item, item, _partial(op, net)))
        found.append(Steps(item * prod(of_state), steps))
    return tuple(found)


BUILDERS: dict[str, Callable[[Op, Net], Nests]] = {
    **dict.fromkeys(kinds.MATMUL - {"matmul_nbits"}, _matmul),
    "matmul_nbits": _matmul_nbits,
    **dict.fromkeys(kinds.CONVOLUTION, _conv),
    **dict.fromkeys(kinds.ATTENTION, _attention),
    **dict.fromkeys(kinds.RECURRENT, _recurrent),
    "einsum": _einsum,
}
