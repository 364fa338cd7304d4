"""PyTorch modules and exported programs as `Program`s: core ATen with attention, linear and recurrent layers kept whole."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.fx import CodeGen, GraphModule, Node

from ..cost_model.errors import InputError
from ..cost_model.program import Program
from ..cost_model.view_fx import as_numpy
from .check_trace import check_finite, check_numbers, grown
from .fault_text import fault_text
from .flat_module import distinct, flat_forward, named_tensors, split_sample

aten = torch.ops.aten
Axes = Mapping[str, Mapping[int, str]]

KEPT_WHOLE = (
    # The default table takes attention apart and raises on gpt2 ("Cannot view a tensor", pytorch#136543).
    aten.scaled_dot_product_attention.default,
    # Taken apart it becomes view, permute, addmm, view; whole it reads like the model's own code.
    aten.linear.default,
    # Taken apart each is unrolled over its steps, which fixes the length.
    aten.lstm.input,
    aten.gru.input,
    aten.rnn_tanh.input,
    aten.rnn_relu.input,
)


def trace_module(module: nn.Module, sample: Any, dynamic: Axes | None = None, source: str = "") -> Program:
    """Trace `module` in evaluation mode on `sample` (a tuple of tensors, or a dict by parameter name of `forward`).

    `dynamic` names the axes that may change, input -> {axis: symbol}; a size that others add up to is called "a + b". Left out, the first
    axis of every input ("batch") and the second of integer inputs ("sequence") are tried. An axis asked for that the trace fixes is a
    sentence in `notes`. Outputs are flat: fields of dataclasses by name, None dropped, caches as plain tensors.

    Raises InputError for a sample that does not fit, weights with NaN or infinity, a module that cannot be traced (naming its exception) or
    whose trace computes other numbers.
    """
    tensors, constants = split_sample(module, sample)
    source = source or type(module).__name__
    check_finite(dict(module.named_parameters()), dict(module.named_buffers()), source)
    with flat_forward(module, tuple(tensors), constants) as names, torch.no_grad(), _quiet():
        graph, obtained, notes = _trace_with_axes(module, tensors, dynamic, source)
        outputs = distinct(names, tuple(tensors))
    if not outputs:
        raise InputError(f"{source} returns no tensor, so there is nothing to compute; let its forward return its result.")
    arrays = {name: as_numpy(tensor) for name, tensor in tensors.items()}
    return Program(graph, "torch", arrays, tuple(arrays), outputs, obtained, source, tuple(notes))


def trace_exported(exported: ExportedProgram, source: str = "") -> Program:
    """The same for a program that torch.export made; its example inputs become the sample, its own symbols the dynamic axes.

    Raises InputError where it holds no example inputs, where they are no plain tensors, or for weights with NaN or infinity.
    """
    source = source or "ExportedProgram"
    if exported.example_inputs is None:
        raise InputError(f"{source} holds no example inputs; export it again with torch.export.export(module, inputs).")
    check_finite(dict(exported.named_parameters()), dict(exported.named_buffers()), source)
    with torch.no_grad(), _quiet():
        graph = _graph_of(exported, source)
    values = torch.utils._pytree.tree_leaves(exported.example_inputs)
    nodes = [node for node in graph.graph.nodes if node.op == "placeholder"]
    if not all(isinstance(value, torch.Tensor) for value in values) or len(values) != len(nodes):
        raise InputError(f"{source} has inputs that are no tensors; wrap the module so that each input is a tensor.")
    arrays = {str(node.target): as_numpy(value) for node, value in zip(nodes, values, strict=True)}
    obtained = _obtained(graph, {name: {} for name in arrays})
    outputs = distinct(_drop_what_is_no_tensor(graph, _output_names(exported, graph)), tuple(arrays))
    return Program(graph, "torch", arrays, tuple(arrays), outputs, obtained, source)


def _trace_with_axes(
    module: nn.Module, tensors: Mapping[str, torch.Tensor], dynamic: Axes | None, source: str
) -> tuple[GraphModule, dict[str, dict[int, str]], list[str]]:
    """The first of these that traces and computes the module's numbers at two sizes: all symbols asked for, all but one, none."""
    wanted = _default_axes(tensors) if dynamic is None else _checked_axes(dynamic, tensors)
    symbols = list(dict.fromkeys(symbol for axes in wanted.values() for symbol in axes.values()))
    fewer = [{n: {a: s for a, s in axes.items() if s != left} for n, axes in wanted.items()} for left in reversed(symbols)]
    attempts = [wanted, *fewer] if len(symbols) > 1 else [wanted] if symbols else []
    notes: list[str] = []
    for axes in attempts:
        try:
            larger = {name: grown(tensor, axes.get(name, {}), {}, least=2) for name, tensor in tensors.items()}
            shapes = {name: dict.fromkeys(axes.get(name, {}), Dim.AUTO) for name in tensors}
            graph = _graph_of(_export(module, larger, shapes, source), source)
            obtained = _obtained(graph, axes)
            check_numbers(module, graph, tensors, source)
            # A size that is named as a sum grows with each of its parts.
            step = {symbol: str(symbol).count("+") + 1 for free in obtained.values() for symbol in free.values()}
            if step:
                check_numbers(module, graph, {n: grown(t, obtained.get(n, {}), step) for n, t in larger.items()}, source)
            return graph, obtained, notes + _fixed(axes, obtained, tensors)
        except InputError as fault:
            names = sorted({symbol for free in axes.values() for symbol in free.values()})
            notes.append(f"Tracing with free axes ({', '.join(names)}) failed, so fewer are free: {fault}")
    graph = _graph_of(_export(module, tensors, {name: {} for name in tensors}, source), source)
    check_numbers(module, graph, tensors, source)
    return graph, {}, notes


def _export(module: nn.Module, tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, Any], source: str) -> ExportedProgram:
    try:
        return torch.export.export(module, (), dict(tensors), dynamic_shapes=dict(shapes), strict=False)
    except Exception as fault:  # the module's own code runs here and may raise anything
        raise InputError(f"{source} cannot be traced: {fault_text(fault)}.") from fault


def _graph_of(exported: ExportedProgram, source: str) -> GraphModule:
    """Decomposed, with weights as attributes, a flat tuple of results, and no assertion nodes."""
    table = torch.export.default_decompositions()
    for operator in KEPT_WHOLE:
        table.pop(operator, None)
    try:
        exported = exported.run_decompositions(table)
        inner = exported.module(check_guards=False)
    except Exception as fault:  # decompositions run the operators' own Python code
        raise InputError(f"{source} cannot be brought to core operators: {fault_text(fault)}.") from fault
    graph = GraphModule(inner, inner.graph, class_name="Traced")
    graph.graph.set_codegen(CodeGen())
    for node in reversed(list(graph.graph.nodes)):
        if str(node.target).startswith("aten._assert_tensor_metadata") and not node.users:
            graph.graph.erase_node(node)
        elif node.target is aten.view.default and _after_attention(node):
            node.target = aten.reshape.default
    for each in graph.modules():
        each.training = False
    graph.graph.lint()
    graph.recompile()
    return graph


def _after_attention(node: Node) -> bool:
    """Whether only changes of layout lie between attention and `node`: its strides differ between backends, and a view may fail."""
    source = node.args[0]
    while isinstance(source, Node) and source.target in (aten.permute.default, aten.transpose.int, aten.clone.default):
        source = source.args[0]
    return isinstance(source, Node) and source.target is aten.scaled_dot_product_attention.default


def _default_axes(tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[int, str]]:
    first = next((tensor.shape[0] for tensor in tensors.values() if tensor.dim()), None)
    found: dict[str, dict[int, str]] = {}
    for name, tensor in tensors.items():
        axes = {0: "batch"} if tensor.dim() and tensor.shape[0] == first else {}
        whole = not tensor.dtype.is_floating_point and tensor.dtype is not torch.bool
        if whole and tensor.dim() > 1:
            axes[1] = _sequence(tensors, tensor.shape[1])
        found[name] = axes
    return found


def _sequence(tensors: Mapping[str, torch.Tensor], length: int) -> str:
    """ "sequence" for the length of the first integer input; another length (a decoder's) gets a symbol of its own."""
    lengths = dict.fromkeys(t.shape[1] for t in tensors.values() if t.dim() > 1 and not t.dtype.is_floating_point)
    position = list(lengths).index(length)
    return "sequence" if position == 0 else f"sequence_{position}"


def _checked_axes(dynamic: Axes, tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[int, str]]:
    for name, axes in dynamic.items():
        if name not in tensors:
            raise InputError(f"A dynamic axis is asked for input {name!r}; the inputs are: {', '.join(tensors)}.")
        for axis in axes:
            if not 0 <= axis < tensors[name].dim():
                raise InputError(f"Input {name!r} has {tensors[name].dim()} axes, so axis {axis} cannot be dynamic.")
    return {name: dict(axes) for name, axes in dynamic.items()}


def _obtained(graph: GraphModule, wanted: Axes) -> dict[str, dict[int, str]]:
    """Symbols by input and axis as the trace has them, under the names asked for, else the names "<input>_<axis>"."""
    names: dict[Any, str] = {}
    found: dict[str, dict[int, str]] = {}
    for node in graph.graph.nodes:
        value = node.meta.get("val")
        if node.op != "placeholder" or not isinstance(value, torch.Tensor):
            continue
        for axis, dim in enumerate(value.shape):
            if isinstance(dim, torch.SymInt) and dim.node.expr.free_symbols:
                fallback = wanted.get(str(node.target), {}).get(axis, f"{node.target}_{axis}")
                found.setdefault(str(node.target), {})[axis] = names.setdefault(dim.node.expr, fallback)
    return found


def _fixed(wanted: Axes, obtained: Axes, tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """A sentence for every axis that was asked to be free and is not."""
    return [
        f"Axis {axis} ({symbol}) of input {name!r} was asked to be free, but tracing fixed it at {tensors[name].shape[axis]}."
        for name, axes in wanted.items()
        for axis, symbol in axes.items()
        if axis not in obtained.get(name, {})
    ]


def _output_names(exported: ExportedProgram, graph: GraphModule) -> list[str | None]:
    """A flat name for each result, None for one that is no tensor; "output_0" ..., where the structure has no names."""
    results = _results(_output_node(graph))
    tensors = [isinstance(result, Node) and isinstance(result.meta.get("val"), torch.Tensor) for result in results]
    places = [torch.empty(0) if tensor else None for tensor in tensors]
    try:
        found = named_tensors(torch.utils._pytree.tree_unflatten(places, exported.call_spec.out_spec))
        names = [name for name, _ in found]
    except Exception:  # a container whose class cannot be built from stand-ins: numbers are as good as names
        names = []
    if len(names) != sum(tensors):
        names = [f"output_{index}" for index, tensor in enumerate(tensors) if tensor]
    left = iter(names)
    return [next(left) if tensor else None for tensor in tensors]


def _drop_what_is_no_tensor(graph: GraphModule, names: list[str | None]) -> tuple[str, ...]:
    output = _output_node(graph)
    output.args = (tuple(result for result, name in zip(_results(output), names, strict=True) if name is not None),)
    graph.recompile()
    return tuple(name for name in names if name is not None)


def _results(output: Node) -> tuple[Any, ...]:
    results = output.args[0]
    assert isinstance(results, tuple | list)
    return tuple(results)


def _output_node(graph: GraphModule) -> Node:
    return next(node for node in graph.graph.nodes if node.op == "output")


@contextmanager
def _quiet() -> Any:
    """Tracing warns about its own internals, and logs tracebacks and prints half-made graphs of what it then raises."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
