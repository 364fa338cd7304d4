"""A table of embeddings in codes as nodes for onnxruntime's CPU provider, built with onnx_ir."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..quantized_linear.onnx_body import Body, Maker
from .formats import PreparedTable

RUNTIME_DOMAIN = "com.microsoft"


def runtime_domain_imports() -> dict[str, int]:
    """The operator sets the nodes of this file need besides the default one."""
    return {RUNTIME_DOMAIN: 1}


def table_nodes(table: PreparedTable, indices: ir.Value, dtype: str, name: str) -> Body:
    """The rows [..., D] that integer `indices` [...] name, in the float `dtype`: one GatherBlockQuantized."""
    made = Maker(name)
    codes = made.constant("codes", table.codes)
    scale = made.constant("scale", table.scale.astype(np.dtype(dtype)))
    attributes = {"bits": table.bits, "block_size": table.group, "gather_axis": 0, "quantize_axis": 1}
    node = ir.node("GatherBlockQuantized", [codes, indices, scale], attributes, domain=RUNTIME_DOMAIN, name=name)
    node.outputs[0].name = name
    return Body([node], node.outputs[0], made.initializers)
