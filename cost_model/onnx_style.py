"""In which operators an ONNX file is written: those that run fastest in onnxruntime, or standard ONNX alone."""

from __future__ import annotations

from enum import StrEnum

from .errors import InputError


class OnnxStyle(StrEnum):
    """`runtime`: number formats in onnxruntime's own operators (domain com.microsoft). `qdq`: standard ONNX alone, QuantizeLinear and
    DequantizeLinear around ordinary operators, for any runtime that knows these."""

    runtime = "runtime"
    qdq = "qdq"


def style_named(name: str) -> OnnxStyle:
    """The style of that name. InputError names those there are."""
    if name not in list(OnnxStyle):
        raise InputError(f"There is no ONNX style {name!r}; the styles are {', '.join(OnnxStyle)}.")
    return OnnxStyle(name)
