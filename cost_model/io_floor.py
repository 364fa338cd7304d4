"""`io_floors`: the least bytes that one op moves past each fast memory, by the bound that its kind has."""

from __future__ import annotations

from math import prod

from . import kinds
from .compulsory import compulsory_bytes
from .counts_traffic import item_bytes, root, value_bytes
from .device import Device
from .io_bounds import attention_words, conv_words, matmul_words
from .net import Net, Op
from .window_axes import window_axes


def io_floors(op: Op, net: Net, device: Device) -> tuple[float, float]:
    """Least bytes that `op` moves [B] between memory and the chip, and between the last cache and the cores (see `fast_memories`): its
    compulsory bytes, or the bound of a matmul, convolution or attention if that is more. What one core hands to another counts as
    moved. Shapes that are not known leave the compulsory bytes."""
    compulsory = compulsory_bytes([op], net)
    chip, core = (max(compulsory, bound_bytes(op, net, fast)) for fast in fast_memories(device))
    return chip, core


def fast_memories(device: Device) -> tuple[float, float]:
    """What the chip holds and what one core holds [B]. A floor must grant all that a level holds: a core its "capacity.registers" too, and
    the chip "capacity.chip", its cores with its cache; a profile that lacks them has one core without registers."""
    value = device.values
    core = value["capacity.core"] + value.get("capacity.registers", 0.0)
    return value.get("capacity.chip", value["capacity.cache"] + core), core


def bound_bytes(op: Op, net: Net, fast: float) -> float:
    """The bound of a matmul, convolution or attention on its own past `fast` bytes, what one core holds, for all cores together [B]; below
    its compulsory bytes where `fast` is large; 0 for other kinds.

    A bound in words holds for bytes with the geometric mean of the three element sizes as the word: a product of element counts is at
    most that of the bytes over that of the sizes.
    """
    if op.kind in kinds.MATMUL:
        return _matmul(op, net, fast)
    if op.kind in kinds.CONVOLUTION:
        return _conv(op, net, fast)
    if op.kind in kinds.ATTENTION:
        return _attention(op, net, fast)
    return 0.0


def _matmul(op: Op, net: Net, fast: float) -> float:
    a, b, y = (net.shape(name) for name in (*op.inputs[:2], op.output))
    if not a or not b or y is None or not _distinct(op.inputs[:2], net):
        return 0.0
    inner = a[-2] if op.attributes.get("transpose_a") and len(a) > 1 else a[-1]
    weights = inner * y[-1] if op.kind == "matmul_nbits" else prod(b)
    word = _word(op, net, (prod(a), weights, prod(y)))
    return word * matmul_words(float(inner * prod(y)), fast / word) if word else 0.0


def _conv(op: Op, net: Net, fast: float) -> float:
    axes = window_axes(op, net)
    x, weight, y = (net.shape(name) for name in (*op.inputs[:2], op.output))
    if axes is None or not x or not weight or y is None:
        return 0.0
    word = _word(op, net, (prod(x), prod(weight), prod(y)))
    products = float(x[0] * prod(weight[:2]) * prod(axis.products for axis in axes))
    return word * conv_words(products, fast / word, float(prod(axis.overlap for axis in axes))) if word and products else 0.0


def _attention(op: Op, net: Net, fast: float) -> float:
    """Only with queries, keys and values as the sole operands: a mask may let a kernel skip scores, a cache may add some, and packed
    projections make queries that are never loaded."""
    names = [name for name in op.inputs if name]
    shapes = [net.shape(name) or () for name in names]
    lengths = [len(shape) for shape in shapes]
    if lengths not in ([3, 3, 3], [4, 4, 4]) or not _distinct(names, net):
        return 0.0
    query, key, value = shapes
    heads = kv_heads = 1
    if lengths[0] == 3 and op.attributes.get("layout") != "BHND":
        heads = int(op.attributes.get("heads") or 0)
        kv_heads = int(op.attributes.get("kv_heads") or heads)
    sizes = [item_bytes(net.values[name].dtype) for name in (*names, op.output)]
    if not heads or not all(sizes) or not prod(query) * prod(key) * prod(value):
        return 0.0
    rows, keys, depth, value_depth = query[-2], key[-2], query[-1] // heads, value[-1] // kv_heads
    least = min(rows, keys)
    scores = least * (least + 1) / 2 if op.attributes.get("is_causal") else rows * keys
    word = min(size for size in sizes if size)
    return word * attention_words(prod(query[:-2]) * heads * scores, depth, value_depth, fast / word)


def _word(op: Op, net: Net, elements: tuple[int, int, int]) -> float | None:
    """Geometric mean of the bytes of an element of both operands and the output [B]; None where one is not known, or empty."""
    sizes = [value_bytes(name, net) for name in (*op.inputs[:2], op.output)]
    if not all(sizes) or not all(elements):
        return None
    return prod((size or 0.0) / count for size, count in zip(sizes, elements, strict=True)) ** (1 / 3)


def _distinct(names: tuple[str, ...] | list[str], net: Net) -> bool:
    """Whether no two operands are the same bytes: the bounds count each on its own."""
    return len({root(name, net) for name in names}) == len(names)
