"""What a weight costs in each structure (Theorem 3.24 with its constants), and which of them its spectrum and its clusters recommend.

The theorem gives, for a weight of m x n: s single entries s e_flop + s e_mem, b blocks of k x k b k^2 e_flop + b e_mem, rank r
(m + n) r e_flop + r e_mem, up to constants. Here arithmetic is paid for every row of inputs; an access moves bytes: the weight's, with
their positions, from memory once, and for every row the inputs into registers, one for each single entry, k for each block, and
for dense tiles as for blocks. Time is left out, as in the theorem: an estimate that costs less than dense still needs a kernel that
is as fast for its work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .device import Device
from .errors import InputError

STRUCTURES = ("dense", "low_rank", "block_sparse", "two_of_four", "unstructured")
BLOCK = 16
"""Side of a block: the tile of matrix units, and one vector of 16 floats."""

INDEX_BYTES = 4
LAYER_ERROR = 0.01
"""The relative squared error of a layer's own output at which structures are compared."""

SAMPLED_COLUMNS = 256
"""Errors of masks are taken over this many columns, in blocks spread over the weight: with all of them wide layers would take minutes."""

BISECTIONS = 10


@dataclass(frozen=True)
class Structure:
    """A weight of `features` x `columns` in a structure of `STRUCTURES`: `size` is the rank, the number of blocks or of entries."""

    name: str
    features: int
    columns: int
    size: int = 0

    @property
    def multiply_adds(self) -> int:
        """Per row of inputs."""
        whole = self.features * self.columns
        return {
            "dense": whole,
            "low_rank": (self.features + self.columns) * self.size,
            "block_sparse": self.size * BLOCK * BLOCK,
            "two_of_four": whole // 2,
            "unstructured": self.size,
        }[self.name]

    @property
    def density(self) -> float:
        """Its multiply-adds over those of the dense weight: the rho of Proposition 3.23."""
        return self.multiply_adds / (self.features * self.columns)

    @property
    def loads(self) -> float:
        """Inputs that a row brings into registers: each serves a column where entries stand alone, else `BLOCK` columns at a time."""
        return self.multiply_adds / (1 if self.name == "unstructured" else BLOCK)

    def weight_bytes(self, value_bytes: int) -> float:
        """Bytes of its numbers and of their positions: an index for each block or entry, two bits for each entry of 2:4."""
        positions = {"two_of_four": self.multiply_adds / 4, "block_sparse": self.size * INDEX_BYTES}
        positions["unstructured"] = float(self.size * INDEX_BYTES)
        return self.multiply_adds * value_bytes + positions.get(self.name, 0.0)


def structure_joules(structure: Structure, rows: int, device: Device, dtype: str = "float32") -> tuple[float, float]:
    """(arithmetic, memory) [J] of one product with `rows` rows of inputs: two flops a multiply-add; its bytes from memory, and
    those of its inputs from cache."""
    value_bytes = {"float64": 8, "float32": 4}.get(dtype, 2)
    arithmetic = device.values[f"flop.{device.resolve(dtype)}"] * 2 * rows * structure.multiply_adds
    loaded = device.values["byte.cache"] * value_bytes * rows * structure.loads
    return arithmetic, device.values["byte.memory"] * structure.weight_bytes(value_bytes) + loaded


def relative_joules(structure: Structure, rows: int, device: Device, dtype: str = "float32") -> float:
    """The joules of a structure over those of the same weight kept dense."""
    dense = Structure("dense", structure.features, structure.columns)
    return sum(structure_joules(structure, rows, device, dtype)) / sum(structure_joules(dense, rows, device, dtype))


@dataclass(frozen=True)
class Estimate:
    """One structure of one weight: the smallest size of it whose relative squared output error is within the asked one (2:4 has one size,
    whatever its error), that error, and the `decay` eta of error ~ density^-eta (Proposition 3.23)."""

    structure: Structure
    error: float
    decay: float = 0.0


def estimates(weight: np.ndarray, gram: np.ndarray | None, error: float = LAYER_ERROR) -> tuple[Estimate, ...]:
    """Each structure of `weight` [K, N] at the relative squared error `error` of its output, in the order of `STRUCTURES`. Errors are in
    the norm of `gram` [K, K] = x^T x, positive definite (that of the weight itself for None).

    Ranks are the best there are; entries, blocks and 2:4 are kept by w_ij^2 gram_ii and their values left as they are. Raises InputError
    for a weight that is zero in that norm: no error can be relative to it."""
    weight = np.asarray(weight, np.float64)
    features, columns = weight.shape
    gram = np.eye(features) if gram is None else np.asarray(gram, np.float64)
    total = float(np.sum((gram @ weight) * weight))
    if not total > 0:
        raise InputError("A weight that is zero, or reads nothing but zeros, has no relative error in any structure.")
    importance = weight**2 * np.diagonal(gram)[:, None]
    masked = (_masked(name, weight, gram, importance, error) for name in ("block_sparse", "two_of_four", "unstructured"))
    return (Estimate(Structure("dense", features, columns), 0.0), _low_rank(weight, gram, error), *masked)


def recommended(
    found: Sequence[Estimate], rows: int, device: Device, dtype: str = "float32", error: float = LAYER_ERROR
) -> Estimate:
    """The estimate of fewest joules among those within `error`: what Theorem 3.24 calls superior for the same error."""
    within = [each for each in found if each.error <= error]
    return min(within, key=lambda each: relative_joules(each.structure, rows, device, dtype))


def power_law(densities: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    """(c, eta) of error ~ c density^-eta, least squares of the logarithms; (0, 0) where fewer than two errors are above zero."""
    known = (np.asarray(errors) > 0) & (np.asarray(densities) > 0)
    if known.sum() < 2:
        return 0.0, 0.0
    slope, start = np.polyfit(np.log(np.asarray(densities)[known]), np.log(np.asarray(errors)[known]), 1)
    return float(np.exp(start)), float(-slope)


def pareto_density(c: float, eta: float, joules: float, price: float) -> float:
    """The density in (0, 1] at which d error / d density = -price d E / d density (Proposition 3.23), for error c density^-eta and an
    energy E = joules density; `price` is in error per joule. Raises ValueError unless all are above zero."""
    if min(c, eta, joules, price) <= 0:
        raise ValueError("pareto_density needs numbers above zero.")
    return min(1.0, (c * eta / (price * joules)) ** (1 / (eta + 1)))


def _low_rank(weight: np.ndarray, gram: np.ndarray, error: float) -> Estimate:
    output = weight.T @ gram @ weight if weight.shape[1] <= weight.shape[0] else _turned(weight, gram)
    squares = np.clip(np.linalg.eigvalsh(output)[::-1], 0, None)
    tails = np.maximum(0.0, 1 - np.cumsum(squares) / squares.sum())
    rank = min(int(np.argmax(tails <= error)) + 1 if np.any(tails <= error) else len(tails), len(tails))
    ranks = np.arange(1, len(tails) + 1)
    whole = Structure("low_rank", weight.shape[0], weight.shape[1], rank)
    _, decay = power_law(ranks[tails > 1e-6] / len(tails), tails[tails > 1e-6])
    return Estimate(whole, float(tails[rank - 1]), decay)


def _turned(weight: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """A matrix [K, K] with the eigenvalues of W^T gram W that are not zero."""
    root = np.linalg.cholesky(gram).T @ weight
    return root @ root.T


def _masked(name: str, weight: np.ndarray, gram: np.ndarray, importance: np.ndarray, error: float) -> Estimate:
    features, columns = weight.shape
    seen = _spread_columns(columns)
    narrow, part = gram.astype(np.float32), weight[:, seen].astype(np.float32)
    total = float(np.sum((narrow @ part) * part, dtype=np.float64))

    def missed(keep: np.ndarray) -> float:
        lost = np.where(keep[:, seen], np.float32(0), part)
        return max(0.0, float(np.sum((narrow @ lost) * lost, dtype=np.float64))) / total if total > 0 else 0.0

    if name == "two_of_four":
        return Estimate(Structure(name, features, columns), missed(_two_of_four(importance)))
    scores = importance if name == "unstructured" else _block_sums(importance)
    ordered, most = np.sort(scores, axis=None)[::-1], scores.size

    def kept(size: int) -> np.ndarray:
        keep = scores >= ordered[size - 1]
        return keep if name == "unstructured" else _spread_blocks(keep, features, columns)

    low, high = 0, most
    tried: list[tuple[float, float]] = []
    for _ in range(BISECTIONS):
        if high - low <= 1:
            break
        middle = (low + high) // 2
        tried.append((middle / most, missed(kept(middle))))
        low, high = (low, middle) if tried[-1][1] <= error else (middle, high)
    _, decay = power_law(*np.array(tried or [(1.0, 0.0)]).T)
    return Estimate(Structure(name, features, columns, high), missed(kept(high)), decay)


def _spread_columns(columns: int) -> np.ndarray:
    if columns <= SAMPLED_COLUMNS:
        return np.arange(columns)
    starts = np.linspace(0, columns - BLOCK, SAMPLED_COLUMNS // BLOCK).astype(int) // BLOCK * BLOCK
    return (np.unique(starts)[:, None] + np.arange(BLOCK)).reshape(-1)


def _block_sums(importance: np.ndarray) -> np.ndarray:
    """[ceil(K / BLOCK), ceil(N / BLOCK)]; the last row and column of blocks may be cut."""
    features, columns = importance.shape
    padded = np.pad(importance, ((0, -features % BLOCK), (0, -columns % BLOCK)))
    return padded.reshape(padded.shape[0] // BLOCK, BLOCK, -1, BLOCK).sum(axis=(1, 3))


def _spread_blocks(keep: np.ndarray, features: int, columns: int) -> np.ndarray:
    return np.repeat(np.repeat(keep, BLOCK, axis=0), BLOCK, axis=1)[:features, :columns]


def _two_of_four(importance: np.ndarray) -> np.ndarray:
    """bool [K, N]: the two of each four inputs of a column that matter most; a last group that is cut keeps two as well."""
    features, columns = importance.shape
    groups = np.pad(importance, ((0, -features % 4), (0, 0)), constant_values=-1.0).reshape(-1, 4, columns)
    order = np.argsort(np.argsort(-groups, axis=1, kind="stable"), axis=1)
    return (order < 2).reshape(-1, columns)[:features]
