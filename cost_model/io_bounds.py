"""Lower bounds on the words moved between a fast memory of M words and a slow one, with constants; and one formula that is no bound.

The game is Hong and Kung's (1981) at its most permissive: the fast memory starts empty, inputs wait in slow memory and outputs must
end there; a load and a store cost one word each; computing, computing again and dropping are free, and a result may take the
place of an operand. Each product of the definition is formed: Strassen, Winograd and FFT escape these bounds.

One argument proves them all. Call a load a charge, and the start of a sum from nothing too: before such a sum leaves the fast
memory it is stored, or its work is lost, so charges <= loads + stores. Cut a schedule wherever another T charges are full. In such a
segment at most X = M + T words are at hand (X = T in the first, which starts empty), and they allow f(X) products.
Smith et al. end with "- 2 M"; the empty start makes it unnecessary, and so the bounds also hold for the traffic of many cores
together, each with M words of its own. They are shown beside costs and never rank options.
"""

from __future__ import annotations

from math import log2, sqrt


def matmul_words(multiplications: float, fast: float) -> float:
    """Least words for a matrix product of G scalar multiplications past `fast` = M words: 2 G / sqrt(M).

    f(X) = (X/3)^1.5: multiplications project onto the elements of A, B and C, so they are at most sqrt(a b c) (Loomis and Whitney)
    with a + b + c <= X. Segments of 2 M charges, the first of 3 M, hold M^1.5 each; a last one of t charges holds
    ((M + t)/3)^1.5 <= (M + t) sqrt(M)/2. Constant and -2 M: Smith, Lowery, Langou, van de Geijn 2019, arXiv 1702.02017. A batch may be
    given as one, since sums of sqrt(a b c) over its products are no more than sqrt of the sums. A and B must be different values.
    """
    return 2.0 * multiplications / sqrt(fast)


def conv_words(multiplications: float, fast: float, overlap: float) -> float:
    """Least words for a direct convolution of G multiplications past `fast` = M words: max(2 G / sqrt(overlap M), 9 G / (4 M)).

    `overlap` is the most window positions that meet in one input element (transposed: in one output element), the product over the axes
    of `window_axes.WindowAxis.overlap`: R S for stride 1, ceil(R/s) ceil(S/s) in general, 1 for stride = kernel, where nothing is saved on
    a matmul. First form: for one tap of the kernel the multiplications are those of a matmul, at most sqrt(i f o); taps share neither
    f nor, beyond `overlap` times, i; so f(X) = sqrt(overlap) (X/3)^1.5 (Cauchy and Schwarz). Second: any two of input, filter and
    output element determine a multiplication, so their number is at most (i f o)^(2/3), f(X) = (X/3)^2; segments of M charges,
    the first of 2 M. Groups are a batch. After Chen, Demmel, Dinh, Haberle, Holtz 2022, arXiv 2204.08279, which subtracts M and 2 M;
    2 G / sqrt(M) does not hold where windows overlap (Demmel and Dinh 2018, arXiv 1802.06905).
    """
    return max(2.0 * multiplications / sqrt(overlap * fast), 2.25 * multiplications / fast)


def attention_words(pairs: float, depth: float, value_depth: float, fast: float) -> float:
    """Least words for exact softmax attention past `fast` = M words: 2 P D_v / sqrt(M) if M <= D^2, else 4 P D D_v / (M + D^2).

    `pairs` = P counts the scores of all heads, half of them if causal; D = `depth` of queries and keys, D_v that of values. Whatever may
    be computed twice, a segment adds P v to O for a score only if that score, in part or whole, was at hand (s of them), or its whole
    query row and key row were: these are at most a b scores with a D + b D <= q + k elements. For each column of V the terms are at most
    sqrt(a b o v), so all are at most sqrt(q k o v)/D + sqrt(s o v). With o + v = u and q + k + s = X - u that is at most
    u/2 times sqrt(y) for y = X - u <= D^2, or (y + D^2)/2D: f(X) = (X/3)^1.5 while X <= 3 D^2, (X + D^2)^2/16D beyond. Segments of M + D^2
    charges, the first of 2 M + D^2, hold (M + D^2)^2/4D. Keys that several heads share are rows of one longer query.

    Saha and Ye 2024 (arXiv 2402.07443) prove both orders without a constant; for large M the constant 4 is that of FlashAttention with
    tiles of M/2D rows, so it cannot be raised. Corollary 3.9 prints N^2 d / M, which lacks a factor d. Sparse and approximate attention
    leave scores out and must not be compared with this.
    """
    if fast <= depth * depth:
        return 2.0 * pairs * value_depth / sqrt(fast)
    return 4.0 * pairs * depth * value_depth / (fast + depth * depth)


def edge_depth_heuristic(edges: float, depth: float, fast: float) -> float:
    """(|E| - M depth) / log2 M in words, as Theorem 3.8 prints it. NOT a lower bound: 10^6 independent chains of 100 pointwise ops with
    M = 1024 move 2e6 words, and this gives 1e7. Kept to mirror the printed formula; nothing in this package uses it as a floor."""
    return (edges - fast * depth) / log2(fast)
