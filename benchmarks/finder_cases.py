"""The gallery on which the finder is judged: each architecture exported by torch, with free batch and length, once for each spelling."""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import torch

from ..cost_model.errors import InputError
from ..cost_model.program import Program
from ..models.architectures import ARCHITECTURES, Architecture
from ..rewriter.trace_onnx import load_onnx
from ..rewriter.trace_torch import trace_exported

ROADS = ("torch", "onnx 18", "onnx 23")


@dataclass(frozen=True)
class Case:
    """One cell of the table: `spelling` is transformers' name of its attention, `road` one of ROADS."""

    architecture: str
    spelling: str
    road: str

    @property
    def made(self) -> Architecture:
        return ARCHITECTURES[self.architecture]


def cases(names: tuple[str, ...] = tuple(ARCHITECTURES)) -> list[Case]:
    """Every spelling that transformers has of each architecture, by every road."""
    return [Case(name, spelling, road) for name in names for spelling in ARCHITECTURES[name].spellings for road in ROADS]


def program_of(case: Case, cache: Path) -> Program:
    """The exported model as a `Program`. Files are kept in `cache` and read from there the next time."""
    path = cache / f"{case.architecture}-{case.spelling}.pt2"
    if not path.exists():
        with _quiet(), _whole(path) as written:
            torch.export.save(exported(case.made, case.spelling), written)
    if case.road == "torch":
        with _quiet():
            return trace_exported(torch.export.load(path), path.stem)
    opset = int(case.road.split()[1])
    file = path.with_name(f"{path.stem}-{opset}.onnx")
    if not file.exists():
        with _quiet(), _whole(file) as written:
            ir.save(_onnx(torch.export.load(path), opset), written)
    sample = {name: tensor.numpy() for name, tensor in case.made.inputs().items()}
    return load_onnx(file, sample=sample)


def exported(made: Architecture, spelling: str) -> torch.export.ExportedProgram:
    """The model as torch.export gives it, the first axis of each input free and the second of token ids and masks."""
    inputs = made.inputs()
    free = {
        name: dict.fromkeys(range(1 if tensor.dtype.is_floating_point else 2), torch.export.Dim.AUTO)
        for name, tensor in inputs.items()
    }
    with torch.no_grad():
        return torch.export.export(made.module(spelling), (), inputs, dynamic_shapes=free, strict=False)


def _onnx(program: torch.export.ExportedProgram, opset: int) -> ir.Model:
    """As torch's exporter writes it, so that it runs.

    Without `no_grad` the exporter takes attention for another kernel than torch.export did, and a view of its result fails.
    """
    _say_which_heads_are_shared(program)
    with torch.no_grad():
        found = torch.onnx.export(program, dynamo=True, verbose=False, opset_version=opset)
    if found is None:
        raise InputError("torch's exporter gave no model.")
    _repeat_angles(found.model)
    return found.model


def _say_which_heads_are_shared(program: torch.export.ExportedProgram) -> None:
    """torch broadcasts one key head over all query heads unasked; its exporter wants to be told."""
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.scaled_dot_product_attention.default:
            queries, keys = (argument.meta["val"].shape[1] for argument in node.args[:2])
            if isinstance(keys, int) and keys == 1 != queries:
                node.kwargs = {**node.kwargs, "enable_gqa": True}


def _repeat_angles(model: ir.Model) -> None:
    """The exporter's own RotaryEmbedding of opset 23 reads angles [1, length, width], where the operator wants [batch, length, width];
    onnxruntime 1.31 refuses to run that on more than one row."""
    for node in [node for node in model.graph if node.op_type == "RotaryEmbedding" and node.domain == ""]:
        rows, *caches = node.inputs[:3]
        for index, cache in enumerate(caches, 1):
            name = f"{node.name}.angles_{index}"
            batch = ir.node("Shape", [rows], {"start": 0, "end": 1}, name=f"{name}.batch")
            rest = ir.node("Shape", [cache], {"start": 1}, name=f"{name}.rest")
            shape = ir.node("Concat", [batch.outputs[0], rest.outputs[0]], {"axis": 0}, name=f"{name}.shape")
            whole = ir.node("Expand", [cache, shape.outputs[0]], name=name)
            for each in (batch, rest, shape, whole):
                each.outputs[0].name = str(each.name)
            model.graph.insert_before(node, [batch, rest, shape, whole])
            node.replace_input_with(index, whole.outputs[0])


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A name to write to; the file gets its own name once it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"unfinished-{path.name}")
    yield unfinished
    os.replace(unfinished, path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters print their progress and warn of their own internals."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
