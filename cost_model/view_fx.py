"""`view_fx`: a traced FX graph (core ATen, attention kept whole) as a `Net`, for one binding of its input shapes."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch.fx import GraphModule, Node

from .attributes_aten import CallFacts, attributes_of
from .kinds import COLLECTIVE, MATMUL, other
from .kinds_aten import kind_of_aten
from .module_op import MODULE_OP
from .net import Net, Op, Value
from .symbols_fx import Symbols

_SYMBOLIC_MODULES = ("_operator", "math", "torch.fx.experimental.symbolic_shapes", "torch.utils._sympy.functions")


def view_fx(graph: GraphModule, shapes: Mapping[str, tuple[int, ...]]) -> Net:
    """One `Op` for each call, under the node's name, with `shapes` (input name -> sizes) put in for the symbolic sizes.

    Value names are node names; a node with several outputs writes "<node>.0", "<node>.1", ..., and the getitem behind it is an
    identity with attribute `index`. A number among the operands becomes a one-element constant "<node>:<argument index>". A call of a
    module is the op that its `ModuleOp` says, with the module's buffers as constants "<node>:<buffer>".
    Every node needs `meta["val"]`. Linear in the number of nodes. Raises InputError for a shape that does not fit.
    """
    return _Builder(graph, Symbols(graph.graph, shapes)).net()


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as an array of the same bits; bfloat16 and float8, which numpy lacks, as ml_dtypes. One number under a larger shape stays
    one number."""
    tensor = tensor.detach().cpu()
    if any(tensor.stride()):
        tensor = tensor.contiguous()
    name = _dtype(tensor)
    if name == "bfloat16" or name.startswith("float8"):
        raw = tensor.view(torch.uint16 if tensor.element_size() == 2 else torch.uint8)
        return raw.numpy().view(getattr(ml_dtypes, name))
    return tensor.numpy()


class _Builder:
    def __init__(self, graph: GraphModule, symbols: Symbols) -> None:
        self.graph, self.symbols = graph, symbols
        self.values: dict[str, Value] = {}
        self.ops: dict[str, Op] = {}

    def net(self) -> Net:
        inputs: list[str] = []
        outputs: list[str] = []
        for node in self.graph.graph.nodes:
            if node.op == "placeholder":
                self.values[node.name] = self._value(node.name, node.meta.get("val"))
                inputs.append(node.name)
            elif node.op == "get_attr":
                self._constant(node)
            elif node.op == "output":
                torch.fx.node.map_arg(node.args, lambda source: outputs.append(source.name))
            elif MODULE_OP in node.meta:
                self._module(node)
            else:
                self._call(node)
        return Net(self.ops, self.values, tuple(inputs), tuple(outputs))

    def _constant(self, node: Node) -> None:
        found: Any = self.graph
        for part in str(node.target).split("."):
            found = getattr(found, part)
        if isinstance(found, torch.Tensor):
            self.values[node.name] = Value(node.name, tuple(found.shape), _dtype(found), lambda: as_numpy(found))

    def _module(self, node: Node) -> None:
        """A call of a module of ours, as the op that the pass which put it there says it is."""
        module, said = self.graph.get_submodule(str(node.target)), node.meta[MODULE_OP]
        called_with, buffers = [source.name for source in node.all_input_nodes], []
        for buffer, tensor in module.named_buffers():
            name = f"{node.name}:{buffer}"
            self.values[name] = Value(name, tuple(tensor.shape), _dtype(tensor), partial(as_numpy, tensor))
            buffers.append(name)
        self.values[node.name] = self._value(node.name, node.meta["val"])
        target, first = f"szilard.{type(module).__name__}", 1 if said.kind in MATMUL else len(called_with)
        operands = (*called_with[:first], *buffers, *called_with[first:])
        self.ops[node.name] = Op(node.name, said.kind, target, operands, (node.name,), said.attributes, _origin(node))

    def _value(self, name: str, fake: Any) -> Value:
        if isinstance(fake, torch.Tensor):
            return Value(name, self.symbols.shape(fake), _dtype(fake))
        dtype = (
            "bool"
            if isinstance(fake, bool | torch.SymBool)
            else "float64"
            if isinstance(fake, float | torch.SymFloat)
            else "int64"
        )
        return Value(name, () if fake is not None else None, dtype if fake is not None else None)

    def _call(self, node: Node) -> None:
        result = node.meta.get("val")
        several = isinstance(result, tuple | list)
        fakes = tuple(result) if isinstance(result, tuple | list) else (result,)
        outputs = tuple(f"{node.name}.{index}" for index in range(len(fakes))) if several else (node.name,)
        for name, fake in zip(outputs, fakes, strict=True):
            self.values[name] = self._value(name, fake)
        target = _target(node)
        if node.target is operator.getitem and isinstance(node.args[0], Node) and f"{node.args[0].name}.0" in self.values:
            index = node.args[1]
            source = f"{node.args[0].name}.{index}"
            self.ops[node.name] = Op(node.name, "identity", target, (source,), outputs, {"index": index}, _origin(node))
            return
        kind, wanted = _kind(node, target)
        arguments = _arguments(node)
        names = tuple(arguments) if wanted is None else tuple(name for name in wanted if name in arguments)
        operands: list[str] = []
        for name in names:
            operands += self._operands(node, name, arguments, every=wanted is None)
        while operands and not operands[-1]:
            operands.pop()
        for read in node.all_input_nodes:
            # A tensor among the options (the bounds of clamp, an `out=`) is an edge of the graph all the same.
            if isinstance(read.meta.get("val"), torch.Tensor) and read.name not in operands:
                operands.append(read.name)
        kind = "transfer" if kind in ("cast", "identity") and _changes_device(node) else kind
        facts = CallFacts(
            name=target.split(".")[1] if "." in target else target,
            arguments={name: self._plain(value) for name, value in arguments.items()},
            shapes=[self.values[name].shape if name in self.values else None for name in operands],
            output_shapes=[self.values[name].shape for name in outputs],
            output_dtype=self.values[outputs[0]].dtype if outputs else None,
        )
        attributes = attributes_of(kind, facts)
        if kind in COLLECTIVE and (size := _group_size(arguments)):
            attributes = {"group_size": size}
        if kind in ("add", "sub") and arguments.get("alpha", 1) != 1:
            attributes = {"alpha": arguments["alpha"]}
        if kind == "cast" and facts.output_dtype == self.values[operands[0]].dtype:
            kind, attributes = "identity", {}
        self.ops[node.name] = Op(
            node.name,
            kind,
            target,
            tuple(operands),
            outputs,
            attributes,
            _origin(node),
            self._branches(node) if kind == "if" else (),
        )

    def _operands(self, node: Node, name: str, arguments: Mapping[str, Any], every: bool) -> list[str]:
        """Value names behind one argument. With `every`, only nodes count: numbers of an unknown operator may be options."""
        argument = arguments.get(name)
        found: list[str] = []
        for item in argument if isinstance(argument, list | tuple) else (argument,):
            if isinstance(item, Node):
                found += [f"{item.name}.0"] if f"{item.name}.0" in self.values else [item.name]
            elif every:
                continue
            elif isinstance(item, bool | int | float):
                found.append(self._number(node, list(arguments).index(name), item))
            else:
                found.append("")
        return found

    def _number(self, node: Node, index: int, number: bool | int | float) -> str:
        """A one-element constant of the dtype that the operator computes in."""
        name = f"{node.name}:{index}"
        sources = [source.meta.get("val") for source in node.all_input_nodes]
        dtypes = [_dtype(source) for source in sources if isinstance(source, torch.Tensor) and source.dtype != torch.bool]
        dtype = dtypes[0] if dtypes else "float32"
        if isinstance(number, bool):
            dtype = "bool"
        elif index and list(_arguments(node))[index] == "index":
            dtype = "int64"
        elif isinstance(number, float) and "float" not in dtype and not dtype.startswith("complex"):
            dtype = "float32"
        array = np.asarray(number, np.dtype(getattr(ml_dtypes, dtype, dtype)))
        self.values[name] = Value(name, (), dtype, lambda: array)
        return name

    def _plain(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [self._plain(item) for item in value]
        if isinstance(value, Node) and isinstance(value.meta.get("val"), torch.SymInt):
            number = self.symbols.number(value.meta["val"])
            return value if number is None else number
        return value

    def _branches(self, node: Node) -> tuple[Net, ...]:
        found = []
        for argument in node.args:
            if isinstance(argument, Node) and argument.op == "get_attr":
                inner = getattr(self.graph, str(argument.target), None)
                if isinstance(inner, GraphModule):
                    found.append(_Builder(inner, self.symbols).net())
        return tuple(found)


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _target(node: Node) -> str:
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target)
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        return f"higher_order.{node.target.name()}"
    if isinstance(node.target, str):
        return node.target
    module = getattr(node.target, "__module__", "").lstrip("_")
    return f"{module}.{getattr(node.target, '__name__', node.target)}"


def _kind(node: Node, target: str) -> tuple[str, tuple[str, ...] | None]:
    if isinstance(node.target, torch._ops.OpOverload | torch._ops.HigherOrderOperator):
        return kind_of_aten(target)
    fake = node.meta.get("val")
    module = getattr(node.target, "__module__", "")
    if isinstance(fake, torch.SymInt | torch.SymFloat | torch.SymBool | int | float) or module in _SYMBOLIC_MODULES:
        return "sym", None
    return other(target), None


def _arguments(node: Node) -> dict[str, Any]:
    """Arguments by schema name, defaults put in, where there is a schema; else by position."""
    if isinstance(node.target, torch._ops.OpOverload):
        schema = node.target._schema.arguments
        given = dict(zip((argument.name for argument in schema), node.args, strict=False)) | dict(node.kwargs)
        return {argument.name: given.get(argument.name, argument.default_value) for argument in schema}
    return {str(index): value for index, value in enumerate(node.args)} | dict(node.kwargs)


def _changes_device(node: Node) -> bool:
    result = node.meta.get("val")
    sources = [source.meta.get("val") for source in node.all_input_nodes]
    devices = {each.device for each in (result, *sources) if isinstance(each, torch.Tensor)}
    return len(devices) > 1


def _group_size(arguments: Mapping[str, Any]) -> int | None:
    """How many devices a collective is for: as it says, or as the process group of this process has that it names."""
    size, group = arguments.get("group_size"), arguments.get("group_name")
    if isinstance(size, int):
        return size
    if not (isinstance(group, str) and torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    resolve: Any = torch.distributed.distributed_c10d._resolve_process_group
    try:
        return int(resolve(group).size())
    except (RuntimeError, KeyError, ValueError):
        return None


def _origin(node: Node) -> str:
    """The innermost module path that export recorded ("encoder.layer.0.attention.self.query"), "" for the root's own code."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [
        entry[0] for entry in stack.values() if isinstance(entry, tuple) and not entry[0].startswith("_empty_nn_module_stack")
    ]
    return paths[-1] if paths else ""
