"""`Program`: a traced model, whichever IR holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Program:
    """`graph` is a torch.fx.GraphModule (core ATen, parameters as attributes) or an onnx_ir.Model; `runtime` says which:
    "torch" or "onnxruntime". `sample` maps each input name to an array; `dynamic` the input axes that may change, input name
    -> {axis: symbol}. `source` is what the user named."""

    graph: Any
    runtime: str
    sample: Mapping[str, np.ndarray]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic: Mapping[str, Mapping[int, str]]
    source: str
    notes: tuple[str, ...] = ()
