"""What `--onnx-style qdq` leaves of the options: those that standard ONNX can say. Each of the others has a sentence that refuses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..cost_model.kinds_onnx import native_name
from ..cost_model.program import Program
from ..kernels.quantized_conv.elementwise import ACTIONS as ELEMENTWISE
from ..kernels.quantized_conv.formats import ACTION as INT8_CONV
from ..kernels.quantized_conv.onnx_qdq import OPSET as CONV_OPSET
from ..kernels.quantized_embedding.formats import BITS
from ..kernels.quantized_embedding.onnx_qdq import OPSET as EMBEDDING_OPSET
from ..kernels.quantized_linear.formats import EVERY_FORMAT
from ..kernels.quantized_linear.onnx_qdq import BLOCK_FORMATS, BLOCK_OPSET, COLUMN_FORMATS, COLUMN_OPSET
from .report_view import few

OPSET = 21
"""What a model is brought to: all that is said here is in it."""

OPSETS = {
    **dict.fromkeys(COLUMN_FORMATS, COLUMN_OPSET),
    **dict.fromkeys(BLOCK_FORMATS, BLOCK_OPSET),
    **dict.fromkeys(BITS, EMBEDDING_OPSET),
    INT8_CONV: CONV_OPSET,
    ELEMENTWISE["add"]: CONV_OPSET,
    "float16": 9,
}
"""Action -> the operator set that its standard nodes need; those that are not here need none beyond the model's."""

OPERATORS = {
    "fused_attention": "MultiHeadAttention or GroupQueryAttention",
    "keyed_attention": "MultiHeadAttention or GroupQueryAttention",
    "skip_layer_norm": "SkipLayerNormalization",
    ELEMENTWISE["gelu"]: "QLinearSigmoid",
    ELEMENTWISE["mean"]: "QLinearGlobalAveragePool",
}
"""Action -> the operators of onnxruntime that it is."""

OTHER_FORMAT = "a matrix product in this format"
FOREIGN = "{} came with operators outside standard ONNX ({}); they stay, so that its file runs where these are known."


def standard_refusals(actions: Mapping[str, str], opset: int, stays: str) -> dict[str, str]:
    """`actions` (action -> the sentence that refuses it, "" if it may be taken) for a model in that operator set, with a sentence at all
    that standard ONNX cannot say. `stays`: why the model is not in a newer operator set."""
    return {action: standard_refusal(action, opset, stays) or reason for action, reason in actions.items()}


def standard_refusal(action: str, opset: int, stays: str = "") -> str:
    """Why standard ONNX cannot say an action, "" if it can."""
    name = action.removesuffix("_merged")
    if name == "sum_layer_norm":
        return "a Sum in the place of an Add only keeps onnxruntime's own optimiser away; drop --onnx-style qdq"
    if name in OPERATORS or (name in EVERY_FORMAT and name not in OPSETS):
        operator = OPERATORS.get(name, OTHER_FORMAT)
        return f"{operator} is an operator of onnxruntime, not of standard ONNX; drop --onnx-style qdq"
    if opset < OPSETS.get(name, 0):
        return f"in standard ONNX it needs opset {OPSETS[name]}, and the model stays in opset {opset}: {stays}"
    return ""


def with_foreign_noted(program: Program) -> Program:
    """The ONNX program with a note of the operators outside standard ONNX that it came with."""
    nodes = [node for node in program.graph.graph.all_nodes() if node.domain and not node.domain.startswith("ai.onnx")]
    names = [native_name(node.domain, node.op_type) for node in nodes]
    if not names:
        return program
    return replace(program, notes=(*program.notes, FOREIGN.format(program.source, few(list(dict.fromkeys(names))))))
