"""What goes into the output folder: the ONNX file, the PyTorch module, the plan, the report and every step."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from ..cost_model.plan import Plan
from .emit_torch import emit_torch
from .json_text import json_text
from .optimise import Optimised
from .report import write_report
from .report_programs import FILES
from .runtime_onnx import open_session, save_model


def original_file(model: Any) -> Path | None:
    """The ONNX file behind `model`, if it is one: an unchanged model is emitted byte for byte."""
    path = Path(model) if isinstance(model, (str, Path)) else None
    return path if path is not None and path.suffix == ".onnx" and path.is_file() else None


def emit(
    folder: Path,
    parts: Sequence[tuple[str, Sequence[Optimised]]],
    plan: Plan,
    report: Mapping[str, Any],
    original: Path | None,
) -> None:
    """Fill `folder` with the programs of a model, each (name, what was done on its runtimes). An ONNX input gives no model.py, weights or
    kernels: ONNX in, ONNX out."""
    printed = [
        (f"{name}_{step.name}" if name else step.name, text)
        for name, done in parts
        for each in done
        for step, text in zip(each.steps, each.printed, strict=True)
    ]
    (folder / "steps").mkdir()
    for number, (name, text) in enumerate(printed):
        (folder / "steps" / f"{number:02d}_{name}.py").write_text(f"# Constructed by {name}\n{text}", encoding="utf-8")
    for name, done in parts:
        for each in done:
            _emit_program(folder, each, FILES[name], original)
    (folder / "plan.json").write_text(json_text(plan.to_json()), encoding="utf-8")
    write_report(folder, report, plan)


def _emit_program(folder: Path, each: Optimised, ending: str, original: Path | None) -> None:
    path = folder / f"model{ending}.onnx"
    if each.program.runtime == "torch":
        program = each.program
        emit_torch(folder, program.graph, program.sample, program.inputs, program.outputs, program.dynamic, ending)
    elif original is not None and not each.changed:
        copy_onnx(original, path)
    else:
        emit_onnx(each.program.graph, path)


def emit_onnx(model: ir.Model, path: Path) -> None:
    """Write `path`, then hold the written file against onnx.checker and a plain onnxruntime session."""
    model.producer_name = "szilard"
    save_model(model, path)
    onnx.checker.check_model(str(path))
    with open_session(path):
        pass


def copy_onnx(source: Path, path: Path) -> None:
    """Copy an ONNX file with the external data files that it names, under the names it gives them."""
    shutil.copyfile(source, path)
    for tensor in onnx.external_data_helper._get_all_tensors(onnx.load(source, load_external_data=False)):
        for entry in tensor.external_data:
            if entry.key == "location" and not (path.parent / entry.value).exists():
                (path.parent / entry.value).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source.parent / entry.value, path.parent / entry.value)
