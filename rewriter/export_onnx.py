"""A traced PyTorch program as an ONNX program with the same input and output names and the same free axes."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes import common

from ..cost_model.errors import InputError, SzilardError
from ..cost_model.program import Program
from ..cost_model.sample_onnx import symbols
from ..cost_model.view_fx import as_numpy
from .check_trace import grown
from .fault_text import root_fault_text
from .normal_onnx import normalise
from .runtime_onnx import open_session, run_session
from .runtime_torch import as_tensors, torch_runner
from .translate_attention import attention

OPSET = 20
"""The newest that keeps Gelu whole and attention in plain operators: onnxruntime's CPU kernel for the opset 23 Attention is slower
(5.1 ms against 4.6 ms decomposed, per layer of MiniLM at 8x128)."""

TOLERANCE = 1e-3
"""Largest difference allowed, relative to the largest output."""


def export_onnx(program: Program) -> Program:
    """Export the graph of `program` (runtime "torch") for onnxruntime, weights included, and compare both on the sample.

    Raises InputError where the exporter has no translation (naming the operator) and where onnxruntime computes other numbers.
    """
    arrays = list(as_tensors(program.sample, program.inputs))
    axes = [program.dynamic.get(name, {}) for name in program.inputs]
    larger = tuple(grown(tensor, free, {}, least=2) for tensor, free in zip(arrays, axes, strict=True))
    try:
        with _quiet(), torch.no_grad():
            exported = torch.onnx.export(
                program.graph,
                larger,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                dynamic_shapes=tuple(dict.fromkeys(free, torch.export.Dim.AUTO) for free in axes),
                input_names=list(program.inputs),
                output_names=list(program.outputs),
                custom_translation_table={torch.ops.aten.scaled_dot_product_attention.default: attention},
            )
    except Exception as fault:  # the exporter raises its own types around whatever the translation of an operator raises
        raise InputError(f"{program.source} cannot be exported to ONNX: {root_fault_text(fault)}.") from fault
    assert exported is not None
    model = exported.model
    _restore_names(model, program)
    common.CommonSubexpressionEliminationPass()(model)
    normalise(model)
    notes = (*program.notes, *_restore_axes(model, program.dynamic))
    result = replace(program, graph=model, runtime="onnxruntime", dynamic=symbols(model), notes=notes)
    for tensors in (arrays, larger):
        _check_numbers(program, result, {n: as_numpy(t) for n, t in zip(program.inputs, tensors, strict=True)})
    return result


def _restore_names(model: ir.Model, program: Program) -> None:
    """The exporter renames an input that shares its name with another value (pytorch#173076)."""
    graph = model.graph
    for values, names in ((graph.inputs, program.inputs), (graph.outputs, program.outputs)):
        if len(values) != len(names):
            raise SzilardError(f"The ONNX exporter made {len(values)} inputs or outputs of {len(names)} ({', '.join(names)}).")
    wanted = {*program.inputs, *program.outputs}
    keep = {*graph.inputs, *graph.outputs}
    others = [*graph.initializers.values(), *(value for node in graph.all_nodes() for value in node.outputs)]
    for value in others:
        if value not in keep and value.name in wanted:
            value.name = f"{value.name}.inner"
    for position, (value, name) in enumerate(zip(graph.outputs, program.outputs, strict=True)):
        if value.is_graph_input() or value.is_initializer() or value in list(graph.outputs)[:position]:
            node = ir.node("Identity", [value], name=f"{name}.copy")
            node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
            graph.append(node)
            graph.outputs[position] = node.outputs[0]
    for value, name in (*zip(graph.inputs, program.inputs, strict=True), *zip(graph.outputs, program.outputs, strict=True)):
        value.name = name


def _restore_axes(model: ir.Model, dynamic: Mapping[str, Mapping[int, str]]) -> list[str]:
    """Names of free axes as the program has them, everywhere; a sentence for each axis that the exporter fixed."""
    names: dict[str, str] = {}
    fixed = []
    for value in model.graph.inputs:
        for axis, symbol in dynamic.get(value.name or "", {}).items():
            dim = value.shape[axis] if value.shape is not None else None
            if isinstance(dim, ir.SymbolicDim) and dim.value is not None:
                names[dim.value] = symbol
            else:
                fixed.append(f"The ONNX exporter fixed axis {axis} ({symbol}) of input {value.name!r} at {dim}.")
    values = (*model.graph.inputs, *(value for node in model.graph.all_nodes() for value in node.outputs))
    for value in values:
        if value.shape is not None and any(isinstance(dim, ir.SymbolicDim) for dim in value.shape):
            # A size worked out from others ("s18 + 1") is left open: its name would mean nothing any more.
            value.shape = ir.Shape([dim if isinstance(dim, int) else names.get(dim.value or "") for dim in value.shape])
    return fixed


def _check_numbers(program: Program, exported: Program, feeds: Mapping[str, np.ndarray]) -> None:
    expected = torch_runner(program.graph, program.inputs, program.outputs)(feeds)
    with open_session(exported.graph) as session:
        found = run_session(session, feeds)
    for name, want in expected.items():
        got = found[name]
        if want.shape != got.shape:
            raise InputError(
                f"Output {name!r} of the ONNX export of {program.source} has shape {list(got.shape)}, not {list(want.shape)}."
            )
        both = np.isfinite(want.astype(np.float64)) & np.isfinite(got.astype(np.float64))
        apart = np.abs(want.astype(np.float64) - got.astype(np.float64))[both].max(initial=0.0)
        scale = np.abs(want.astype(np.float64))[both].max(initial=0.0)
        if apart > TOLERANCE * max(float(scale), 1e-6) or not np.array_equal(np.isnan(want), np.isnan(got)):
            raise InputError(
                f"The ONNX export of {program.source} computes other numbers than torch: output {name!r} differs by {apart:.2g} of "
                f"{scale:.2g}. Export the model yourself and give the .onnx file."
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints progress on stdout and warns about packages that a model may not even need."""
    loggers = [
        logging.getLogger(name)
        for name in ("torch.onnx", "torch.onnx._internal.exporter._registration", "onnxscript", "onnx_ir")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
