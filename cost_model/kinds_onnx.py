"""Which canonical kind each native ONNX operator has. Attributes and operand order are in `attributes_onnx.py`."""

from __future__ import annotations

from .kinds import other

_SAME_BUT_FOR_CASE = (
    "Add Sub Mul Div Pow Neg Abs Exp Log Sqrt Reciprocal Tanh Sigmoid Erf Relu Gelu Elu Softplus Clip Sin Cos Floor Ceil Round "
    "Sign Min Max Mod Where Not And Or Xor Cast Dropout Softmax Einsum Resize Tile Pad Concat Split Slice Transpose Expand Squeeze "
    "Unsqueeze Reshape Gather Shape Size Constant Identity Conv Attention If Loop Scan LSTM GRU RNN"
)

STANDARD = {
    **{name: name.lower() for name in _SAME_BUT_FOR_CASE.split()},
    "MatMul": "matmul",
    "Gemm": "matmul",
    "ConvTranspose": "conv",
    "Sum": "add",
    "LogSoftmax": "log_softmax",
    "LayerNormalization": "layer_norm",
    "RMSNormalization": "rms_norm",
    "SimplifiedLayerNormalization": "rms_norm",
    "BatchNormalization": "batch_norm",
    "GroupNormalization": "group_norm",
    "InstanceNormalization": "instance_norm",
    "Swish": "silu",
    "HardSigmoid": "hard_sigmoid",
    "HardSwish": "hard_swish",
    "LeakyRelu": "leaky_relu",
    "PRelu": "prelu",
    "IsNaN": "isnan",
    "IsInf": "isinf",
    "CastLike": "cast",
    "Equal": "eq",
    "Greater": "gt",
    "GreaterOrEqual": "ge",
    "Less": "lt",
    "LessOrEqual": "le",
    "ReduceSum": "reduce_sum",
    "ReduceMean": "reduce_mean",
    "ReduceMax": "reduce_max",
    "ReduceMin": "reduce_min",
    "ReduceProd": "reduce_prod",
    "CumSum": "cumsum",
    "ArgMax": "argmax",
    "ArgMin": "argmin",
    "TopK": "topk",
    "Flatten": "reshape",
    "GatherND": "gather_nd",
    "GatherElements": "gather_elements",
    "ScatterND": "scatter_nd",
    "ScatterElements": "scatter_nd",
    "Scatter": "scatter_nd",
    "ConstantOfShape": "constant_of_shape",
    "Range": "arange",
    "MaxPool": "pool_max",
    "AveragePool": "pool_avg",
    "GlobalAveragePool": "pool_global_avg",
    "GlobalMaxPool": "pool_global_max",
    "Upsample": "resize",
    "QuantizeLinear": "quantize_linear",
    "DequantizeLinear": "dequantize_linear",
    "DynamicQuantizeLinear": "dynamic_quantize_linear",
    "MatMulInteger": "matmul_integer",
    "ConvInteger": "conv_integer",
    "MemcpyFromHost": "transfer",
    "MemcpyToHost": "transfer",
}

MICROSOFT = {
    "FusedMatMul": "matmul",
    "TransposeMatMul": "matmul",
    "FusedConv": "conv",
    "Gelu": "gelu",
    "FastGelu": "gelu",
    "BiasGelu": "gelu",
    "QuickGelu": "silu",
    "SkipLayerNormalization": "skip_layer_norm",
    "SkipSimplifiedLayerNormalization": "skip_layer_norm",
    "SimplifiedLayerNormalization": "rms_norm",
    "MultiHeadAttention": "attention",
    "GroupQueryAttention": "attention",
    "Attention": "fused_attention",
    "MatMulIntegerToFloat": "matmul_integer_to_float",
    "DynamicQuantizeMatMul": "matmul_integer_to_float",
    "MatMulNBits": "matmul_nbits",
    "GatherBlockQuantized": "embedding",
    "QuantizeLinear": "quantize_linear",
    "DequantizeLinear": "dequantize_linear",
    "AllReduce": "all_reduce",
    "AllGather": "all_gather",
    "AllToAll": "all_to_all",
}

BLOCKED = {
    "Conv": "conv",
    "MaxPool": "pool_max",
    "AveragePool": "pool_avg",
    "GlobalAveragePool": "pool_global_avg",
    "GlobalMaxPool": "pool_global_max",
    "Upsample": "resize",
    "ReorderInput": "reorder",
    "ReorderOutput": "reorder",
}
"""Operators of onnxruntime's own optimiser on tensors whose channels lie in blocks of a vector register (com.microsoft.nchwc)."""

STANDARD_DOMAINS = ("", "ai.onnx")

_OTHER_DOMAINS = {"com.microsoft": MICROSOFT, "com.microsoft.nchwc": BLOCKED}


def native_name(domain: str, op_type: str) -> str:
    """ "MatMul" for a standard operator, "com.microsoft::FastGelu" for one of another domain."""
    return op_type if domain in STANDARD_DOMAINS else f"{domain}::{op_type}"


def kind_of_onnx(domain: str, op_type: str) -> str:
    """The canonical kind of an operator; "other:" and its native name when it has none.

    Four operators depend on more than their name and are settled in `attributes_onnx.describe`: Trilu (triu or tril), an Einsum
    that is a plain matrix product, a Gather of rows of a constant table (embedding) and a Sum of one operand (identity).
    """
    table = STANDARD if domain in STANDARD_DOMAINS else _OTHER_DOMAINS.get(domain, {})
    return table.get(op_type) or other(native_name(domain, op_type))
