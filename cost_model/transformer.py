"""A decoder in a handful of numbers, and the paper's energy decompositions of inference and training from them: corrected and printed.

The printed forms (eq. 11 and 13) are kept to be compared with; nothing decides by them. Eq. 11 as printed takes a parameter for one
byte, one layer's cache of one vector a position, no attention, and reads the weights for every token at any batch. Eq. 13 multiplies the
hidden size by the heads, which it already counts, and calls steps what Example 4.1 uses as tokens.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from . import kinds
from .counts import count
from .counts_traffic import value_bytes
from .decode import Cache
from .net import Net

TRAINED = ("float", "bfloat", "int8", "uint8", "int4", "uint4", "int2", "uint2")
"""How the dtypes of trained numbers start; the others are indices and masks."""


@dataclass(frozen=True)
class DecoderShape:
    """A causal transformer. `parameters` are its trained numbers; `multiplied` those that a token meets in matrix products (a table that is
    only looked up is none of them). `vocabulary` is 0 for a model without a head."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    parameters: float
    multiplied: float


@dataclass(frozen=True)
class TrainingRun:
    """`tokens` in all, in `batch` sequences of `sequence` tokens a step, on `replicas` devices that sum their gradients. A checkpoint of
    `state_bytes` [B] is written every `checkpoint_interval` steps; `gradient_bytes` [B] are those of one replica. `windows` are the most
    positions that the attention of each layer sees when `causal`, () where all see every earlier one."""

    tokens: float
    sequence: int
    batch: int
    replicas: int = 1
    checkpoint_interval: int = 1000
    state_bytes: float = 0.0
    gradient_bytes: float = 0.0
    causal: bool = True
    windows: tuple[int, ...] = ()

    @property
    def keys(self) -> float:
        """Positions that a token attends to, in the mean over the tokens of a sequence and the layers."""
        if not self.causal:
            return float(self.sequence)
        ends = [min(window, self.sequence) for window in self.windows] or [self.sequence]
        return sum(end * (self.sequence - (end - 1) / 2.0) for end in ends) / (self.sequence * len(ends))

    @property
    def steps(self) -> int:
        """Updates of the parameters."""
        return ceil(self.tokens / (self.sequence * self.batch))


def decoder_shape(net: Net, caches: Sequence[Cache]) -> DecoderShape:
    """The shape of a traced model from `net`, its decode net of one sequence at one new token, and its `caches`, at least one. Layers
    that differ from each other are described by the first."""
    attending = {op for cache in caches for op, *_ in cache.reads}
    products = [op for op in net.ops.values() if op.kind in kinds.MATMUL and op.id not in attending]
    flops = [found for op in products for dtype, found in count(op, net).flops.items() if dtype.endswith(".tensor")]
    first, head = caches[0], products[-1] if products else None
    width = (net.shape(head.inputs[0]) or (0,))[-1] if head else first.heads * first.head_dim
    outputs = [shape[-1] for name in net.outputs[:1] if (shape := net.shape(name))]
    return DecoderShape(
        layers=len(caches),
        width=width,
        heads=first.heads,
        kv_heads=first.kv_heads,
        head_dim=first.head_dim,
        vocabulary=next((size for size in outputs if size != width), 0),
        parameters=float(sum(a.size for dtype, a, _ in _weights(net, cached(caches)) if dtype.startswith(TRAINED))),
        multiplied=sum(flops) / 2.0,
    )


def weight_bytes(net: Net, caches: Sequence[Cache]) -> float:
    """Bytes of all constants of a decode net but the caches [B], those that share memory (tied tables) once."""
    return float(sum(size for _, _, size in _weights(net, cached(caches))))


def cached(caches: Sequence[Cache]) -> frozenset[str]:
    """The names of the constants that stand for caches in a decode net."""
    return frozenset(f"{op}:cache.{place}" for cache in caches for op, place, *_ in cache.reads)


def _weights(net: Net, without: Container[str]) -> list[tuple[str, np.ndarray, float]]:
    """(dtype, array, bytes) of the distinct constants; the arrays are held, so that no address is used twice."""
    found: dict[tuple[int, int], tuple[str, np.ndarray, float]] = {}
    for name, value in net.values.items():
        array = net.array(name) if name not in without else None
        if array is not None:
            found.setdefault((array.ctypes.data, array.nbytes), (value.dtype or "", array, value_bytes(name, net) or 0.0))
    return list(found.values())


def attention_flops(shape: DecoderShape, tokens: float, keys: float) -> float:
    """Flops of both products of attention when `tokens` queries see `keys` keys each, in all layers: 4 L H D flops a pair."""
    return 4.0 * shape.layers * shape.heads * shape.head_dim * tokens * keys


def inference_energy(
    shape: DecoderShape, weights: float, cache: float, keys: float, batch: float, flop: float, byte: float
) -> dict[str, float]:
    """Dynamic joules of one generated token by term, eq. 11 corrected: `weights` bytes [B] read once for `batch` sequences, `cache`
    bytes [B] of one sequence read once, `flop` [J/flop], `byte` [J/B]. The token attends to `keys` positions, its own included, in the
    mean over layers."""
    return {
        "weights": byte * weights / batch,
        "arithmetic": flop * 2.0 * shape.multiplied,
        "attention": flop * attention_flops(shape, 1, keys),
        "cache": byte * cache,
    }


def printed_inference_energy(
    parameters: float, context: int, width: int, flop: float, byte: float, cache: float
) -> dict[str, float]:
    """Eq. 11 as printed, for one token: e_mem p + e_flop 2 p + e_cache 2 N d. A parameter counts as one byte; `width` is d."""
    return {"weights": byte * parameters, "arithmetic": flop * 2.0 * parameters, "cache": cache * 2.0 * context * width}


def training_energy(shape: DecoderShape, run: TrainingRun, flop: float, byte: float, link: float) -> dict[str, float]:
    """Joules of a training run by term, eq. 13 corrected: three passes (forward, and two products backward for each one forward), attention
    without the second count of heads, checkpoints every so many steps, and a ring all-reduce (2 (R - 1) times the gradients a step)."""
    return {
        "arithmetic": flop * 6.0 * shape.multiplied * run.tokens,
        "attention": flop * 3.0 * attention_flops(shape, run.tokens, run.keys),
        "checkpoint": byte * run.state_bytes * ceil(run.steps / run.checkpoint_interval),
        "communication": link * 2.0 * (run.replicas - 1) * run.gradient_bytes * run.steps,
    }


def printed_training_energy(
    shape: DecoderShape, parameters: float, steps: float, sequence: int, batch: float, interval: float, flop: float, byte: float
) -> dict[str, float]:
    """Eq. 13 as printed, without its communication, for which it gives no form: 6 p S, 4 L H N^2 d S / B and p ceil(S / C)."""
    pairs = 4.0 * shape.layers * shape.heads * float(sequence) ** 2 * shape.width
    return {
        "arithmetic": flop * 6.0 * parameters * steps,
        "attention": flop * pairs * steps / batch,
        "checkpoint": byte * parameters * ceil(steps / interval),
    }
