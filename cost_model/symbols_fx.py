"""Numbers for the symbolic sizes of a traced FX graph, once the shapes of its inputs are chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sympy
import torch
from torch.fx import Graph

from .errors import InputError


class Symbols:
    """Symbol -> number, from the placeholders of `graph` and `shapes` (input name -> sizes).

    A symbol that no given shape fixes takes the size it had when the graph was traced. Raises InputError where a shape
    does not fit a placeholder.
    """

    def __init__(self, graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._bound: dict[Any, int] = {}
        self._cache: dict[Any, int | None] = {}
        self._hints: Mapping[Any, Any] = {}
        names = {name for node in graph.nodes if node.op == "placeholder" for name in (node.name, str(node.target))}
        for name in shapes:
            if name not in names:
                raise InputError(f"The model has no input {name!r}; its inputs are: {', '.join(sorted(names))}.")
        for node in graph.nodes:
            value = node.meta.get("val")
            if node.op == "placeholder" and isinstance(value, torch.Tensor):
                given = shapes.get(str(node.target), shapes.get(node.name))
                self._bind(str(node.target), value, given)

    def _bind(self, name: str, value: torch.Tensor, given: tuple[int, ...] | None) -> None:
        if given is not None and len(given) != value.dim():
            raise InputError(f"Input {name!r} has {value.dim()} axes, so the shape {list(given)} does not fit.")
        for axis, dim in enumerate(value.shape):
            size = None if given is None else given[axis]
            if isinstance(dim, torch.SymInt) and not dim.node.expr.free_symbols:
                dim = int(dim.node.expr)
            if isinstance(dim, int):
                if size not in (None, dim):
                    raise InputError(
                        f"Axis {axis} of input {name!r} was traced with the fixed size {dim}, so {size} does not fit; "
                        "trace the model with that size, or make the axis dynamic."
                    )
                continue
            self._hints = self._hints or getattr(dim.node.shape_env, "backed_var_to_val", None) or dim.node.shape_env.var_to_val
            if size is None:
                continue
            expression = dim.node.expr
            free = expression.free_symbols - self._bound.keys()
            if isinstance(expression, sympy.Symbol):
                if self._bound.setdefault(expression, size) != size:
                    raise InputError(
                        f"Axis {axis} of input {name!r} must be {self._bound[expression]}, as in another input; got {size}."
                    )
            elif len(free) == 1:
                (symbol,) = free
                roots = [root for root in sympy.solve(sympy.Eq(expression.subs(self._bound), size), symbol) if root.is_integer]
                if not roots:
                    raise InputError(
                        f"Axis {axis} of input {name!r} is {expression} for whole {symbol}, so it cannot be {size}."
                    )
                self._bound[symbol] = int(roots[0])

    def number(self, size: Any) -> int | None:
        """The number behind an int, a SymInt or a sympy expression; None if it depends on data."""
        if isinstance(size, bool | int):
            return int(size)
        if isinstance(size, torch.SymInt | torch.SymFloat | torch.SymBool):
            size = size.node.expr
        if not isinstance(size, sympy.Basic):
            return None
        if size not in self._cache:
            hints = {symbol: self._hints[symbol] for symbol in size.free_symbols if symbol in self._hints}
            found = size.xreplace(
                {
                    **{s: sympy.Integer(int(h)) for s, h in hints.items()},
                    **{s: sympy.Integer(v) for s, v in self._bound.items()},
                }
            )
            self._cache[size] = int(found) if found.is_integer and found.is_number else None
        return self._cache[size]

    def shape(self, tensor: torch.Tensor) -> tuple[int, ...] | None:
        """The concrete shape of a fake tensor; None if any axis depends on data."""
        sizes = [self.number(size) for size in tensor.shape]
        return None if None in sizes else tuple(size for size in sizes if size is not None)
