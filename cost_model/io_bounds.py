"""Lower bounds on bytes moved between a fast memory and a slow one, with their constants; and one formula that is no bound.

All hold for the classical algorithm with a fast memory that starts empty. They are shown beside costs and never rank options.
"""

from __future__ import annotations

from math import log2, sqrt

from .counts import Counts
from .counts_traffic import item_bytes
from .net import Net, Op


def matmul_words(multiplications: float, fast: float) -> float:
    """Least words between slow memory and `fast` words for a matrix product of G scalar multiplications: 2 G / sqrt(M) - 2 M, at least 0
    (Smith, Lowery, Langou, van de Geijn 2019, arXiv 1702.02017). `fast` must be positive.

    A batch may be given as one: what a phase of the partition argument can multiply with the words at hand is most
    when they belong to one product, so mixing products gains nothing.
    """
    return max(2.0 * multiplications / sqrt(fast) - 2.0 * fast, 0.0)


def edge_depth_heuristic(edges: float, depth: float, fast: float) -> float:
    """(|E| - M depth) / log2 M in words. NOT a lower bound: 10^6 independent chains of 100 pointwise ops with M = 1024 move
    2e6 words, and this gives 1e7. Kept to mirror the printed formula; nothing in this package uses it as a floor."""
    return (edges - fast * depth) / log2(fast)


def io_floor(op: Op, net: Net, counts: Counts, fast: float) -> float:
    """Least bytes that `op`, with the work `counts`, moves past a fast memory of `fast` bytes: its compulsory traffic;
    for a matmul also the bound with sqrt(M), in words of its smallest operand.

    Convolutions keep the compulsory bound: overlapping windows reuse more than a matmul can, so 2 G / sqrt(M) is not valid for them
    (Demmel and Dinh, arXiv 1802.06905). Attention too: no constant is published for its exact bound (Saha and Ye, arXiv 2402.07443).
    """
    if op.kind != "matmul" or not counts.known:
        return counts.bytes
    word = min(item_bytes(net.values[name].dtype) or 1.0 for name in (*op.inputs[:2], op.output))
    multiplications = sum(flops for dtype, flops in counts.flops.items() if dtype.endswith(".tensor")) / 2.0
    return max(counts.bytes, word * matmul_words(multiplications, fast / word))
