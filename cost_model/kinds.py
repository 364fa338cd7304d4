"""The canonical words of `Op.kind`, as sets: what FX and ONNX share, and what prices, finders and views agree on.

A kind outside `KINDS` is written "other:" + native operator name (see `other`); it is kept, named and never priced as zero.
"""

from __future__ import annotations

OTHER = "other:"

UNARY = frozenset(
    "neg abs exp log sqrt rsqrt reciprocal tanh sigmoid erf relu gelu silu hard_sigmoid hard_swish leaky_relu elu softplus "
    "clip sin cos floor ceil round sign isnan isinf not cast dropout".split()
)
BINARY = frozenset("add sub mul div pow min max mod and or xor eq ne lt le gt ge prelu".split())
TERNARY = frozenset(["where"])
ELEMENTWISE = UNARY | BINARY | TERNARY
"""One result per output element, operands broadcast."""

COMPARISON = frozenset("and or xor not eq ne lt le gt ge isnan isinf".split())

REDUCTION = frozenset("reduce_sum reduce_mean reduce_max reduce_min reduce_prod reduce_any reduce_all argmax argmin".split())
SCAN = frozenset(["cumsum"])
ORDER = frozenset(["topk", "sort"])

VIEW = frozenset("reshape squeeze unsqueeze".split())
"""A new shape over the same bytes: nothing moves."""

MATERIALISED = frozenset(
    "transpose expand slice concat split stack pad gather embedding index gather_nd gather_elements scatter_nd index_put tile roll "
    "flip triu tril".split()
)
"""Bytes are copied, nothing is computed."""

GATHER = frozenset("gather embedding index gather_nd gather_elements".split())
"""Reads only as many elements of its data as it writes, plus its indices."""

SCATTER = frozenset("scatter_nd index_put".split())
MOVEMENT = VIEW | MATERIALISED

FREE = frozenset("identity shape constant constant_of_shape full arange size sym assert".split())
"""Names, sizes and fills that a runtime folds away or that cost next to nothing."""

MATMUL = frozenset("matmul matmul_integer matmul_integer_to_float matmul_nbits".split())
CONVOLUTION = frozenset(["conv"])
ATTENTION = frozenset(["attention", "fused_attention"])
RECURRENT = frozenset("lstm gru rnn".split())
SOFTMAX = frozenset(["softmax", "log_softmax"])
NORM = frozenset("layer_norm rms_norm batch_norm group_norm instance_norm skip_layer_norm".split())
POOL = frozenset("pool_max pool_avg pool_adaptive_avg pool_global_avg pool_global_max".split())
QUANTIZE = frozenset("quantize_linear dequantize_linear dynamic_quantize_linear".split())
CONTROL = frozenset("if loop scan".split())

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
    | frozenset(["einsum", "resize"])
)
"""Every word of the vocabulary."""


def other(target: str) -> str:
    """The kind of a native operator that has no canonical word: kept in the net, unpriced and named."""
    return OTHER + target


def is_other(kind: str) -> bool:
    """Whether `kind` stands for an operator outside the vocabulary."""
    return kind.startswith(OTHER)
