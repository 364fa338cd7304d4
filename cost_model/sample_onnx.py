"""Random inputs that an ONNX model accepts: indices stay inside their tables, masks are ones, floats are normal."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from .errors import InputError

_PASSES_THROUGH = frozenset(
    ["Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose", "Expand", "Slice", "Clip"]
)


def symbols(model: ir.Model) -> dict[str, dict[int, str]]:
    """The axes of each input that may change: input name -> {axis: symbol}. A nameless one is called "<input>_<axis>"."""
    found: dict[str, dict[int, str]] = {}
    for value in model.graph.inputs:
        for axis, dim in enumerate(value.shape or ()):
            if isinstance(dim, int) and dim >= 0:
                continue
            name = None if isinstance(dim, int) else dim.value
            symbol = name if name and name.isidentifier() else f"{value.name}_{axis}"
            found.setdefault(value.name or "", {})[axis] = symbol
    return found


LENGTH = 16


def input_shapes(
    model: ir.Model, shapes: Mapping[str, tuple[int, ...]] | None = None, length: int = LENGTH
) -> dict[str, tuple[int, ...]]:
    """A concrete shape for every input of `model`: what `shapes` gives, then what its symbols imply, then a default per symbol.

    Defaults: the first axis 1, and the second of a [layers, B, ...] input; "past" axes 0; height and width of a [B, C, H, W] float
    input 224; any other axis `length`.
    Raises InputError if `shapes` names no input, or contradicts a rank or a fixed size.
    """
    given = dict(shapes or {})
    names = [value.name for value in model.graph.inputs]
    for name in given:
        if name not in names:
            raise InputError(f"The model has no input {name!r}; its inputs are: {', '.join(map(str, names))}.")
    free = symbols(model)
    bound: dict[str, int] = {}
    for value in model.graph.inputs:
        shape, name = given.get(value.name or ""), value.name or ""
        if shape is None or value.shape is None:
            continue
        fixed = ["?" if axis in free.get(name, {}) else dim for axis, dim in enumerate(value.shape)]
        if len(shape) != len(fixed) or any(f not in ("?", d) for f, d in zip(fixed, shape, strict=True)):
            raise InputError(f"Input {name!r} has shape [{', '.join(map(str, fixed))}], which {list(shape)} does not fit.")
        bound |= {symbol: shape[axis] for axis, symbol in free.get(name, {}).items()}
    found = {}
    for value in model.graph.inputs:
        name = value.name or ""
        if name in given or value.shape is None:
            found[name] = tuple(int(d) for d in given.get(name, ()))
            continue
        sizes = []
        for axis, dim in enumerate(value.shape):
            symbol = free.get(name, {}).get(axis)
            if symbol is None:
                assert isinstance(dim, int)
                sizes.append(dim)
            else:
                sizes.append(bound.setdefault(symbol, _default(value, axis, symbol, length)))
        found[name] = tuple(sizes)
    return found


def _default(value: ir.Value, axis: int, symbol: str, length: int) -> int:
    image = value.shape is not None and len(value.shape) == 4 and value.dtype is not None and value.dtype.is_floating_point()
    if "past" in symbol.lower():
        return 0
    state = (
        axis == 1
        and value.shape is not None
        and len(value.shape) > 2
        and isinstance(value.shape[0], int)
        and value.shape[0] > 0
    )
    return 1 if axis == 0 or state else 224 if image and axis >= 2 else length


def random_inputs(
    model: ir.Model, shapes: Mapping[str, tuple[int, ...]] | None = None, length: int = LENGTH, seed: int = 0
) -> dict[str, np.ndarray]:
    """One array for each input, of the shapes of `input_shapes`. Deterministic for one `seed`.

    Raises InputError for an input that is no tensor of numbers (strings, sequences).
    """
    generator = np.random.default_rng(seed)
    sizes = input_shapes(model, shapes, length)
    return {value.name or "": _array(value, sizes[value.name or ""], generator) for value in model.graph.inputs}


def _array(value: ir.Value, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    kind = value.dtype
    if kind is None or kind == ir.DataType.STRING or not isinstance(value.type, ir.TensorType):
        raise InputError(f"Input {value.name!r} is no tensor of numbers; cut off what reads it, onnx.utils.extract_model does.")
    dtype, name = kind.numpy(), (value.name or "").lower()
    if kind.is_floating_point():
        return np.ones(shape, dtype) if "mask" in name else generator.standard_normal(shape).astype(dtype)
    if kind == ir.DataType.BOOL or "mask" in name:
        return np.ones(shape, dtype)
    limit, equal = _index_limit(value)
    if "position" in name and shape:
        return np.broadcast_to(np.arange(shape[-1]) % (limit or shape[-1]), shape).astype(dtype)
    if "token_type" in name or "segment" in name:
        return np.zeros(shape, dtype)
    if limit is not None:
        return generator.integers(0, max(1, limit), shape).astype(dtype)
    return np.full(shape, 1 if equal is None else equal).astype(dtype)


def _index_limit(value: ir.Value) -> tuple[int | None, float | None]:
    """(rows of the smallest constant table that `value` indexes, constant that it is compared with), None where there is none."""
    limits, compared, seen, front = [], [], {value}, [value]
    while front:
        current = front.pop()
        for node, index in current.uses():
            if node.op_type in ("Gather", "GatherElements") and index == 1:
                table = node.inputs[0]
                if table is not None and table.shape is not None and node.inputs[0] is not None:
                    rows = table.shape[node.attributes.get_int("axis", 0)]
                    limits += [rows] if isinstance(rows, int) else []
            elif node.op_type == "Equal":
                other = node.inputs[1 - index]
                constant = ir.convenience.get_const_tensor(other) if other is not None else None
                compared += [float(constant.numpy().reshape(-1)[0])] if constant is not None and constant.size == 1 else []
            elif index == 0 and node.op_type in _PASSES_THROUGH and node.outputs[0] not in seen:
                seen.add(node.outputs[0])
                front.append(node.outputs[0])
    return (min(limits) if limits else None), (compared[0] if compared else None)
