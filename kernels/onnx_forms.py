"""Which nodes a number format becomes in each style of ONNX: the same functions, of onnxruntime's operators or of standard ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import onnx_ir as ir

from ..cost_model.onnx_style import OnnxStyle
from .quantized_conv import onnx_body as conv_body
from .quantized_conv import onnx_qdq as conv_qdq
from .quantized_conv.codes import Codes
from .quantized_conv.elementwise import PreparedElementwise
from .quantized_conv.formats import PreparedConv
from .quantized_embedding import onnx_body as embedding_body
from .quantized_embedding import onnx_qdq as embedding_qdq
from .quantized_embedding.formats import PreparedTable
from .quantized_linear import onnx_body as linear_body
from .quantized_linear import onnx_qdq as linear_qdq
from .quantized_linear.formats import Prepared


class Form(Protocol):
    """What all have: the operator sets that the nodes need besides the default one."""

    def runtime_domain_imports(self) -> dict[str, int]: ...


class LinearForm(Form, Protocol):
    """y = x W + b; see `quantized_linear.onnx_body`."""

    def linear_nodes(
        self, prepared: Prepared, x: ir.Value, name: str, shared: linear_body.QuantizedInputs | None = None
    ) -> linear_body.Body: ...


class ConvForm(Form, Protocol):
    """Codes of floats, floats of codes, and a convolution, an add, a Gelu or a mean on codes; see `quantized_conv.onnx_body`."""

    def coded_shape(self, shape: ir.Shape) -> ir.Shape: ...
    def quantize_nodes(self, x: ir.Value, codes: Codes, rank: int, name: str) -> conv_body.Body: ...
    def dequantize_nodes(
        self, x: conv_body.CodedValue, rank: int, name: str
    ) -> tuple[list[ir.Node], ir.Value, list[ir.Value]]: ...
    def conv_nodes(
        self, prepared: PreparedConv, x: conv_body.CodedValue, name: str, shape: ir.Shape | None = None
    ) -> conv_body.Body: ...
    def elementwise_nodes(
        self, prepared: PreparedElementwise, reads: Sequence[conv_body.CodedValue], name: str, shape: ir.Shape | None = None
    ) -> conv_body.Body: ...


class EmbeddingForm(Form, Protocol):
    """Rows of a table in codes; see `quantized_embedding.onnx_body`."""

    def table_nodes(self, table: PreparedTable, indices: ir.Value, dtype: str, name: str) -> linear_body.Body: ...


LINEAR: Mapping[OnnxStyle, LinearForm] = {OnnxStyle.runtime: linear_body, OnnxStyle.qdq: linear_qdq}
CONV: Mapping[OnnxStyle, ConvForm] = {OnnxStyle.runtime: conv_body, OnnxStyle.qdq: conv_qdq}
EMBEDDING: Mapping[OnnxStyle, EmbeddingForm] = {OnnxStyle.runtime: embedding_body, OnnxStyle.qdq: embedding_qdq}
