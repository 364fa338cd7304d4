"""What every ONNX pass shares: the protocol, and how a pass puts new nodes in the place of old ones.

A `Site` speaks of names: an op id is a node's name, a value name a value's. A pass works in place on the main graph.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..cost_model.errors import InputError
from ..cost_model.plan import Choice
from ..cost_model.sites import Site

MICROSOFT = "com.microsoft"
SITES = "szilard.sites"
CUT_OUT = "szilard.cut_out"
"""The property of a model that is a part of another, cut out to be timed alone."""


@dataclass(frozen=True)
class OnnxPass(ABC):
    """A rewrite of an ONNX model. Its fields are its options, `name` its name in steps, reports and on the command line."""

    name: ClassVar[str]

    @abstractmethod
    def apply(self, model: ir.Model, choices: Sequence[Choice], sites: Mapping[str, Site]) -> int:
        """Change `model` in place where a choice asks for this pass's action; the number of places changed.

        `sites` maps a site id to its site and must hold every id that the choices name. A site whose rewrite is already in
        the model is passed over, so that a second run changes nothing. Raises InputError where the model lacks what a site names.
        """


class Surgeon:
    """Name lookups and replacements on the main graph of one model. Make it anew for each pass; call `close` at its end."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.graph = model.graph
        self.nodes: dict[str, ir.Node] = {node.name: node for node in self.graph if node.name}
        self._rewritten: set[str] = set()
        self.values: dict[str, ir.Value] = {value.name: value for value in _values(self.graph) if value.name}

    def value(self, name: str) -> ir.Value:
        """The value of that name; InputError if the model has none."""
        if name not in self.values:
            raise InputError(
                f"The model has no value {name!r}, which the plan names; make the plan again with `szilard rewrite`."
            )
        return self.values[name]

    def array(self, name: str) -> np.ndarray:
        """The numbers of the constant of that name; InputError if it is no constant."""
        tensor = ir.convenience.get_const_tensor(self.value(name))
        if tensor is None:
            raise InputError(f"Value {name!r} is not a constant of the model, so that the plan does not fit it; make it again.")
        return tensor.numpy()

    def scalar(self, name: str) -> float | None:
        """The number of the one-element constant of that name, None for anything else."""
        value = self.values.get(name)
        tensor = None if value is None else ir.convenience.get_const_tensor(value)
        return float(tensor.numpy().reshape(())) if tensor is not None and tensor.size == 1 else None

    def pending(self, site: Site) -> bool:
        """Whether all ops of the site are there: False if a pass has put others in their place, as those say in their metadata.

        Raises InputError if ops are missing for any other reason, as the plan then belongs to another model.
        """
        gone = [op for op in site.ops if op not in self.nodes]
        if not gone:
            return True
        if not self._rewritten:
            marks = (node.metadata_props.get(SITES, "") for node in self.graph)
            self._rewritten.update(name for mark in marks for name in mark.split("\n"))
        if site.id not in self._rewritten:
            raise InputError(f"Site {site.id} names the op {gone[0]!r}, which the model does not have; make the plan again.")
        return False

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        """A new initialiser of that name, or of a name made from it if it is taken."""
        unique, count = name, 1
        while unique in self.values or unique in self.graph.initializers:
            unique, count = f"{name}.{count}", count + 1
        value = ir.Value(
            name=unique, shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            const_value=ir.tensor(array, name=unique),
        )  # fmt: skip
        self.adopt([value])
        return value

    def shared(self, array: np.ndarray, name: str) -> ir.Value:
        """The small initialiser "szilard.<name>", made at its first use; equal names must mean equal numbers."""
        full = f"szilard.{name}"
        return self.graph.initializers[full] if full in self.graph.initializers else self.constant(full, array)

    def adopt(self, initializers: Iterable[ir.Value]) -> None:
        """Register initialisers that a node builder made, except those that the graph has already."""
        for value in initializers:
            if value.name not in self.graph.initializers:
                self.graph.register_initializer(value)
                self.values[str(value.name)] = value

    def replace(self, sites: Sequence[Site], nodes: Sequence[ir.Node], outputs: Mapping[str, ir.Value]) -> None:
        """Put `nodes` where the ops of `sites` are. `outputs` maps the name of a value of the old ops to the new value that takes
        its name, its type and its readers. Old ops, and ops and initialisers before them, go if nothing reads them any more."""
        ops = [op for site in sites for op in site.ops]
        last = [self.value(name).producer() for name in outputs]
        self.graph.insert_before(self.nodes[ops[0]], nodes)
        for name, new in outputs.items():
            old = self.value(name)
            new.shape, new.type, new.doc_string = old.shape, old.type, old.doc_string
            new.metadata_props.update(old.metadata_props)
            old.replace_all_uses_with(new, replace_graph_outputs=True)
            old.name = f"{name}.before"
            new.name = name
        for node in nodes:
            node.metadata_props[SITES] = "\n".join(site.id for site in sites)
            self.nodes[str(node.name)] = node
            self.values.update((str(value.name), value) for value in node.outputs)
        self.sweep([*(self.nodes[op] for op in ops), *(node for node in last if node is not None)])

    def import_domain(self, domain: str, version: int = 1) -> None:
        """Declare an operator set, unless the model already does."""
        self.model.opset_imports.setdefault(domain, version)

    @property
    def opset(self) -> int:
        """The version of the standard operators that the model declares."""
        return self.model.opset_imports.get("", 1)

    def close(self) -> None:
        """Put the nodes in topological order: new ones stand before the first op of their site, maybe before what they read."""
        self.graph.sort()

    def sweep(self, nodes: Sequence[ir.Node]) -> None:
        """Remove those nodes that nothing reads, and then their producers and initialisers in the same way."""
        waiting = list(nodes)
        while waiting:
            node = waiting.pop()
            if node.graph is not self.graph or any(v.uses() or v.is_graph_output() for v in node.outputs):
                continue
            read = [value for value in node.inputs if value is not None]
            self.graph.remove(node, safe=True)
            self.nodes.pop(str(node.name), None)
            for value in read:
                producer = value.producer()
                if producer is not None:
                    waiting.append(producer)
                elif value.is_initializer() and not (value.uses() or value.is_graph_output() or value.is_graph_input()):
                    self.graph.initializers.pop(str(value.name))
                    self.values.pop(str(value.name), None)


def operation(
    op_type: str, inputs: Sequence[ir.Value | None], name: str, *, domain: str = "", outputs: int = 1, **attributes: object
) -> ir.Node:
    """A node whose outputs are named after it: `name`, or `name.0`, `name.1`, ... where there are several."""
    names = [name] if outputs == 1 else [f"{name}.{index}" for index in range(outputs)]
    values = [ir.Value(name=each) for each in names]
    return ir.node(op_type, inputs, attributes, domain=domain, outputs=values, name=name)  # type: ignore[arg-type]


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs
