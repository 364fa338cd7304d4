"""An ONNX model in a newer operator set, where its operators can be converted and compute what they did."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir

from ..cost_model.errors import InputError
from .backend import Arrays
from .calibration_data import relative_error
from .check import rounding_of
from .fault_text import fault_text
from .normal_onnx import float_dtypes, normalise
from .runtime_onnx import onnx_runner

LEAST_IR_VERSION = 10
"""The version of the file format that opset 21 came with; its 4 bit integers need it."""


def raise_opset(model: ir.Model, opset: int, sample: Arrays) -> str:
    """Brings `model` to operator set `opset` in place, unless it is there or beyond; gives "", or why it stays as it is: its operators
    cannot be converted, or compute other outputs on `sample` (or do not load, where there is none)."""
    had = model.opset_imports.get("", 1)
    if had >= opset:
        model.ir_version = max(model.ir_version, LEAST_IR_VERSION)
        return ""
    copy = model.clone()
    try:
        _convert(copy, opset)
    except Exception as fault:  # each adapter of the converters raises types of its own
        return f"its operators cannot be converted from opset {had} to {opset} ({fault_text(fault)})"
    if copy.opset_imports.get("", 1) != opset:
        return f"its operators cannot be converted from opset {had} to {opset}"
    copy.ir_version = max(copy.ir_version, LEAST_IR_VERSION)
    normalise(copy)
    try:
        wanted, found = (_outputs(each, sample) for each in (model, copy))
    except InputError as fault:
        return f"converted from opset {had} to {opset} it does not run ({str(fault).rstrip('.')})"
    dtypes = {str(array.dtype) for array in wanted.values()} | float_dtypes(model)
    if sample and relative_error([found], [wanted]) > rounding_of(dtypes):
        return f"converted from opset {had} to {opset} it computes other numbers"
    model.graph, model.ir_version = copy.graph, copy.ir_version
    return ""


def _convert(model: ir.Model, opset: int) -> None:
    """By onnxscript's converter, or that of onnx for models older than it takes."""
    from onnxscript.version_converter import convert_version

    with _quiet():
        convert_version(model, target_version=opset, fallback=True)


def _outputs(model: ir.Model, sample: Arrays) -> Arrays:
    with onnx_runner(model) as run:
        return run(sample) if sample else {}


@contextmanager
def _quiet() -> Iterator[None]:
    """The converter logs which of the two it takes, and the trace of what that one raises."""
    logger = logging.getLogger("onnxscript.version_converter")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
