"""What shape inference proves about an ONNX graph at every length: reshapes whose target needs no computing, or that change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

Size = int | str | None
Sizes = tuple[Size, ...]


def sizes(value: ir.Value) -> Sizes | None:
    """The declared sizes of a value: numbers, symbols, or None for one that is not known; None if even their number is not."""
    return None if value.shape is None else tuple(each if isinstance(each, int) else each.value for each in value.shape)


def inferred_sizes(model: ir.Model, alike: Mapping[str, tuple[str, int]]) -> dict[str, Sizes]:
    """Value name -> sizes, as onnx infers them from the shapes of the graph's inputs alone: those declared between its nodes may be left
    from before an input was made dynamic. `model` is left as it is.

    `alike` maps a value whose shape onnx loses (where broadcasting hides it) to one that differs from it in the last axis alone, and
    the size of that axis.
    """
    twin = model.clone()
    values = ir.convenience.create_value_mapping(twin.graph, include_subgraphs=False)
    for value in (value for node in twin.graph.all_nodes() for value in node.outputs):
        value.shape = None
    for name, (source, width) in alike.items():
        values[name] = _stand_in(twin, values[name], values[source], width)
    common.ShapeInferencePass(check_type=False, strict_mode=False)(twin)
    return {name: found for name, value in values.items() if (found := sizes(value)) is not None}


def _stand_in(model: ir.Model, value: ir.Value, source: ir.Value, width: int) -> ir.Value:
    """A product of `source` in the place of `value`, which tells onnx what the shape of `value` is."""
    producer = value.producer()
    assert producer is not None
    columns = ir.Value(name=f"{value.name}.columns", shape=ir.Shape([None, width]), type=ir.TensorType(ir.DataType.FLOAT))
    model.graph.inputs.append(columns)
    product = ir.node("MatMul", [source, columns], name=f"{value.name}.stand_in")
    product.outputs[0].name = f"{value.name}.stand_in"
    model.graph.insert_before(producer, product)
    value.replace_all_uses_with(product.outputs[0], replace_graph_outputs=True)
    return product.outputs[0]


@dataclass(frozen=True)
class Proofs:
    """Two sources of sizes that are not mixed, as each has its own symbols: what is `inferred`, and what the graph declares."""

    inferred: Mapping[str, Sizes]

    def of(self, value: ir.Value) -> tuple[Sizes | None, Sizes | None]:
        """The sizes of a value: (inferred, declared)."""
        return self.inferred.get(str(value.name)), sizes(value)

    def hold(self, test: Callable[[Sizes | None, Sizes | None], bool], first: ir.Value, second: ir.Value) -> bool:
        """Whether one of the sources proves `test` of two values."""
        return any(test(a, b) for a, b in zip(self.of(first), self.of(second), strict=True))


def unchanged(before: Sizes | None, after: Sizes | None) -> bool:
    """Whether a reshape of sizes `before` to `after` changes nothing: as many axes, and all but one of them known to be equal
    (then the last one is, too, since the number of elements stays)."""
    if before is None or after is None or len(before) != len(after):
        return False
    return sum(a is None or a != b for a, b in zip(before, after, strict=True)) <= 1


def joins(joined: Sizes | None, split: Sizes | None) -> bool:
    """Whether `joined` is known to be [B, N, H * D] where `split` is [B, N, H, D]: equal first sizes, three axes."""
    if joined is None or split is None or len(joined) != 3 or len(split) != 4:
        return False
    return None not in joined[:2] and joined[:2] == split[:2]


def constant_target(before: Sizes | None, after: Sizes | None) -> list[int] | None:
    """The second operand of a Reshape from `before` to `after` if it can be a constant: the number, 0 to keep the size that the axis
    has, and -1 for at most one unknown; None if more are unknown."""
    if before is None or after is None or 0 in after:
        return None
    target = []
    for axis, wanted in enumerate(after):
        kept = wanted is not None and axis < len(before) and before[axis] == wanted
        target.append(wanted if isinstance(wanted, int) else 0 if kept else -1)
    return target if target.count(-1) <= 1 else None


def computed_targets(graph: ir.Graph) -> Iterator[tuple[ir.Node, ir.Node]]:
    """Each Reshape of the graph with a computed target, and the node that makes that."""
    for node in graph:
        if node.op_type == "Reshape" and node.domain == "" and not node.attributes.get_int("allowzero", 0):
            target = node.inputs[1]
            maker = None if target is None or ir.convenience.get_const_tensor(target) is not None else target.producer()
            if maker is not None:
                yield node, maker


def fix_reshapes(graph: ir.Graph, known: Mapping[str, Sizes]) -> list[ir.Node]:
    """Give each Reshape of `graph` that computes its target a constant one, where the sizes in `known` prove what it is.

    The nodes that made the targets are given back, one for each Reshape: remove those that nothing reads any more.
    """
    makers = []
    for node, maker in list(computed_targets(graph)):
        data, output = node.inputs[0], node.outputs[0]
        target = constant_target(known.get(str(data.name if data else "")), known.get(str(output.name)))
        if target is not None:
            name = f"{output.name}.target"
            tensor = ir.tensor(np.array(target, np.int64), name=name)
            value = ir.Value(name=name, shape=ir.Shape([len(target)]), type=ir.TensorType(tensor.dtype), const_value=tensor)
            graph.register_initializer(value)
            node.replace_input_with(1, value)
            makers.append(maker)
    return makers
