"""`Net`: one read-only view of a traced model, the same for FX and for ONNX.

Every later step (find, price, plan) reads a `Net`, so each is written once. A native node becomes one `Op` of the same
name; what differs between the two IRs is hidden behind `Op.kind`, a word of the canonical vocabulary in `kinds.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import networkx as nx
import numpy as np


@dataclass(frozen=True)
class Value:
    """A tensor on an edge: `shape` in elements (None if unknown), `dtype` as numpy names it ("bfloat16", "float8_e4m3" too).

    `load` gives the array of a constant (an initialiser, parameter or buffer); None for what is computed.
    """

    name: str
    shape: tuple[int, ...] | None
    dtype: str | None
    load: Callable[[], np.ndarray] | None = field(default=None, repr=False, compare=False)

    @property
    def constant(self) -> bool:
        return self.load is not None

    @property
    def elements(self) -> int:
        """Number of elements; 0 when the shape is unknown."""
        return 0 if self.shape is None else int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class Op:
    """One native node. `id` is its native name, `target` its native operator, `origin` the module path that made it.

    `inputs` holds value names in canonical order, "" for an operand left out; `branches` the nested nets of an If or Loop.
    """

    id: str
    kind: str
    target: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""
    branches: tuple[Net, ...] = ()

    @property
    def output(self) -> str:
        return self.outputs[0]


@dataclass(frozen=True, eq=False)
class Net:
    """Ops in topological order and the values between them. Build it once; nothing changes it afterwards.

    `opset` is the version of the standard operators of an ONNX graph, 0 where there is none.
    """

    ops: Mapping[str, Op]
    values: Mapping[str, Value]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int = 0

    @cached_property
    def _producers(self) -> dict[str, Op]:
        return {name: op for op in self.ops.values() for name in op.outputs if name}

    @cached_property
    def _consumers(self) -> dict[str, tuple[Op, ...]]:
        found: dict[str, dict[str, Op]] = {}
        for op in self.ops.values():
            for name in (*op.inputs, *(n for net in op.branches for n in net.captured)):
                if name:
                    found.setdefault(name, {})[op.id] = op
        return {name: tuple(ops.values()) for name, ops in found.items()}

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.ops)}

    @cached_property
    def _returned(self) -> frozenset[str]:
        return frozenset(self.outputs)

    @cached_property
    def memo(self) -> dict[Any, Any]:
        """What functions of the net have worked out, each under keys of its own: nothing changes a net, so it stays true."""
        return {}

    @cached_property
    def captured(self) -> tuple[str, ...]:
        """Names that a nested net reads from the net around it."""
        own = set(self.inputs) | {name for op in self.ops.values() for name in op.outputs}
        read = [n for op in self.ops.values() for n in (*op.inputs, *(c for net in op.branches for c in net.captured))]
        constants = {name for name, value in self.values.items() if value.constant}
        return tuple(dict.fromkeys(n for n in (*read, *self.outputs) if n and n not in own and n not in constants))

    @cached_property
    def graph(self) -> nx.DiGraph:
        """The same as a networkx graph: node = op id (attribute `op`), edge attribute `values` = names that flow along it."""
        graph = nx.DiGraph()
        graph.add_nodes_from((op.id, {"op": op}) for op in self.ops.values())
        for op in self.ops.values():
            for name in op.inputs:
                source = self._producers.get(name)
                if source is None:
                    continue
                if graph.has_edge(source.id, op.id):
                    graph.edges[source.id, op.id]["values"] += (name,)
                else:
                    graph.add_edge(source.id, op.id, values=(name,))
        return graph

    def producer(self, value: str) -> Op | None:
        """The op that writes `value`; None for an input, a constant or ""."""
        return self._producers.get(value)

    def consumers(self, value: str) -> tuple[Op, ...]:
        """The ops that read `value`, in topological order. A graph output that nobody reads gives ()."""
        return self._consumers.get(value, ())

    def returns(self, value: str) -> bool:
        """Whether `value` is an output of the net."""
        return value in self._returned

    def in_order(self, ids: Collection[str]) -> list[Op]:
        """The ops with these ids in topological order, without a walk through the others; ids of no op are left out."""
        places = self._places
        return [self.ops[name] for name in sorted((name for name in ids if name in places), key=places.__getitem__)]

    def shape(self, value: str) -> tuple[int, ...] | None:
        found = self.values.get(value)
        return found.shape if found else None

    def array(self, value: str) -> np.ndarray | None:
        """The array behind a constant, None for what is computed."""
        found = self.values.get(value)
        return found.load() if found and found.load else None

    def scalar(self, value: str) -> float | None:
        """The number behind a one-element constant, None for anything else."""
        found = self.values.get(value)
        if found is None or found.load is None or found.elements != 1:
            return None
        return float(np.asarray(found.load()).reshape(()))
