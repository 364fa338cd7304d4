"""The canonical words of `Op.kind`, as sets: what FX and ONNX share, and what prices, finders and views agree on.

A kind outside `KINDS` is written "other:" + native operator name (see `other`); it is kept, named and never priced as zero.
"""

from __future__ import annotations

OTHER = "other:"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


UNARY = _words(
    "neg abs exp log log1p sqrt rsqrt reciprocal tanh sigmoid erf relu gelu silu hard_sigmoid hard_swish leaky_relu elu softplus "
    "clip sin cos floor ceil round sign isnan isinf not cast dropout"
)
BINARY = _words("add sub mul div pow min max mod and or xor eq ne lt le gt ge prelu")
TERNARY = frozenset(["where"])
ELEMENTWISE = UNARY | BINARY | TERNARY
"""One result per output element, operands broadcast."""

COMPARISON = _words("and or xor not eq ne lt le gt ge isnan isinf")

REDUCTION = _words("reduce_sum reduce_mean reduce_max reduce_min reduce_prod reduce_any reduce_all argmax argmin")
SCAN = frozenset(["cumsum"])
ORDER = frozenset(["topk", "sort"])

VIEW = _words("reshape squeeze unsqueeze")
"""A new shape over the same bytes: nothing moves."""

MATERIALISED = _words(
    "transpose expand slice concat split stack pad tile roll flip triu tril gather embedding index gather_nd gather_elements "
    "scatter_nd index_put reorder"
)
"""Bytes are copied, nothing is computed."""

GATHER = _words("gather embedding index gather_nd gather_elements")
"""Reads only as many elements of its data as it writes, plus its indices."""

SCATTER = _words("scatter_nd index_put")
MOVEMENT = VIEW | MATERIALISED

FREE = _words("identity shape constant constant_of_shape full arange size sym assert")
"""Names, sizes and fills that a runtime folds away or that cost next to nothing."""

MATMUL = _words("matmul matmul_integer matmul_integer_to_float matmul_nbits")
CONVOLUTION = _words("conv conv_integer")
ATTENTION = frozenset(["attention", "fused_attention"])
RECURRENT = _words("lstm gru rnn")
SOFTMAX = frozenset(["softmax", "log_softmax"])
NORM = _words("layer_norm rms_norm batch_norm group_norm instance_norm skip_layer_norm")
POOL = _words("pool_max pool_avg pool_adaptive_avg pool_global_avg pool_global_max")
QUANTIZE = _words("quantize_linear dequantize_linear dynamic_quantize_linear")
CONTROL = _words("if loop scan")
COLLECTIVE = _words("all_reduce all_gather reduce_scatter all_to_all broadcast transfer")
"""Devices exchange bytes; a transfer copies from one to another."""

KINDS = (
    ELEMENTWISE
    | REDUCTION
    | SCAN
    | ORDER
    | MOVEMENT
    | FREE
    | MATMUL
    | CONVOLUTION
    | ATTENTION
    | RECURRENT
    | SOFTMAX
    | NORM
    | POOL
    | QUANTIZE
    | CONTROL
    | COLLECTIVE
    | frozenset(["einsum", "resize"])
)
"""Every word of the vocabulary."""


def other(target: str) -> str:
    """The kind of a native operator that has no canonical word: kept in the net, unpriced and named."""
    return OTHER + target


def is_other(kind: str) -> bool:
    """Whether `kind` stands for an operator outside the vocabulary."""
    return kind.startswith(OTHER)
