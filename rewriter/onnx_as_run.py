"""An ONNX model as onnxruntime runs it: after the runtime's own optimiser has fused ops and laid out tensors for this processor."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx_ir as ir
import onnxruntime as ort
from onnx_ir.passes import common

from .runtime_onnx import open_session

_DATA = "weights.data"
_LARGE = 1024
"""Bytes. Weights above it are written beside the graph, which protocol buffers would cut off at 2 GB."""


def as_onnxruntime_runs(model: ir.Model | Path) -> ir.Model:
    """The graph whose nodes onnxruntime calls one by one on this machine, weights in memory and node names unique.

    Nothing is run. The graph holds operators of onnxruntime's own domains and is good for this processor only. Raises InputError
    where onnxruntime cannot load the model.
    """
    with tempfile.TemporaryDirectory(prefix="szilard-") as scratch:
        path = Path(scratch) / "optimised.onnx"

        def keep(options: ort.SessionOptions) -> None:
            options.optimized_model_filepath = str(path)
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", _DATA)
            options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", str(_LARGE))

        with open_session(model, configure=keep):
            found = ir.external_data.load_to_model(ir.load(path))
    common.NameFixPass()(found)
    return found
