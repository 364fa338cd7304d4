"""The integer formats in standard ONNX alone: QuantizeLinear and DequantizeLinear around an ordinary MatMul, built with onnx_ir."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .formats import INTEGER_INPUTS, Prepared, zero_points
from .onnx_body import Body, Maker, QuantizedInputs, quantize_nodes

COLUMN_FORMATS = INTEGER_INPUTS
"""Formats that standard ONNX says with scales of columns, and the operator set since which DequantizeLinear has an axis."""
COLUMN_OPSET = 13

BLOCK_FORMATS = ("int8_weight", "int4_weight")
"""Formats that it says with scales of blocks, and the operator set since which DequantizeLinear has blocks."""
BLOCK_OPSET = 21


def runtime_domain_imports() -> dict[str, int]:
    """No operator set besides the default one."""
    return {}


def linear_nodes(prepared: Prepared, x: ir.Value, name: str, shared: QuantizedInputs | None = None) -> Body:
    """y = x W + b with W made floating point again, in `COLUMN_FORMATS` from s8 codes [K, N] with one scale a column; x is then u8 codes
    made floating point again, quantised once for each `shared` input, with one product for each of its terms and the peaks of its rows
    last. In `BLOCK_FORMATS` W comes from codes with one scale for each block of a column, and x stays as it is.

    onnxruntime makes MatMulIntegerToFloat or MatMulNBits of these when it loads a model; what computes them as they are written gives the
    same numbers to float rounding, but that MatMulNBits rounds x. A merged layer gives the wide result."""
    made = Maker(name)
    shape = None if x.shape is None else ir.Shape([*x.shape[:-1], prepared.out_features])
    if prepared.base not in COLUMN_FORMATS:
        blocks = [made.constant(role, array) for role, array in _blocks(prepared).items()]
        weight = made.float("DequantizeLinear", blocks, "weight_float", axis=0, block_size=int(prepared.scalars["block"]))
        product = made.float("MatMul", [x, weight], "product", shape)
        return Body(made.nodes, made.float("Add", [product, _bias(made, prepared)], "y", shape), made.initializers)
    nodes, quantized, initializers = quantize_nodes(prepared, x, name, shared or QuantizedInputs())
    made.nodes += nodes
    made.initializers += initializers
    columns = [made.constant(role, prepared.tensors[role]) for role in ("weight", "weight_scale")]
    weight = made.float("DequantizeLinear", columns, "weight_float", axis=1)
    products = []
    for position, codes in enumerate(quantized.terms):
        # One for each layer, as runtimes that look for the pattern want it.
        source = made.float("DequantizeLinear", list(codes), f"x_{position}")
        products.append(made.float("MatMul", [source, weight], f"product_{position}", shape))
    product = products[0] if quantized.peak is None else made.float("Mul", [products[0], quantized.peak], "scaled_product")
    if quantized.peak is None and _becomes_gemm(shape):
        negative = _bias(made, prepared, -1)
        if len(products) == 1:
            output = made.float("Sub", [product, negative], "y", shape)
        else:
            output = made.float("Sub", [products[1], made.float("Sub", [negative, product], "negative", shape)], "y", shape)
    else:
        output = made.float("Add", [product, _bias(made, prepared)], "y" if len(products) == 1 else "high", shape)
        output = output if len(products) == 1 else made.float("Add", [output, products[1]], "y", shape)
    return Body(made.nodes, output, made.initializers)


def _bias(made: Maker, prepared: Prepared, sign: int = 1) -> ir.Value:
    return made.constant("bias" if sign > 0 else "negative_bias", sign * prepared.tensors["bias"])


def _becomes_gemm(shape: ir.Shape | None) -> bool:
    """Whether onnxruntime may make a Gemm of a MatMul and the Add behind it before it looks for the pattern, which it then does not find:
    of matrices, and where every size is fixed. A Sub it leaves alone; elsewhere an Add, which it fuses with what is behind it."""
    return shape is None or len(shape) == 2 or all(isinstance(size, int) for size in shape)


def _blocks(prepared: Prepared) -> dict[str, np.ndarray]:
    """Codes [K, N] of 8 or 4 bits and their scales [blocks, N]: signed codes where zero is in the middle of them, else with zeros of the
    shape of the scales."""
    tensors, bits = prepared.tensors, int(prepared.scalars["bits"])
    codes, scale = tensors["weight"], np.ascontiguousarray(tensors["weight_scale"].T)
    if bits == 4:
        codes = np.stack([codes & 15, codes >> 4], axis=-1)
    codes = codes.reshape(prepared.out_features, -1)[:, : prepared.in_features].T
    signed, unsigned = (ir.DataType.INT8, ir.DataType.UINT8) if bits == 8 else (ir.DataType.INT4, ir.DataType.UINT4)
    if "weight_zero" in tensors:
        zeros = np.ascontiguousarray(zero_points(prepared).T)
        return {
            "weight": codes.astype(unsigned.numpy()),
            "weight_scale": scale,
            "weight_zero": zeros.astype(unsigned.numpy()),
        }
    centred = codes.astype(np.int8) - np.int8(8) if bits == 4 else (codes.astype(np.int16) - 128).astype(np.int8)
    return {"weight": centred.astype(signed.numpy()), "weight_scale": scale}
