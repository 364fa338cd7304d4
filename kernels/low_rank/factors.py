"""The matrix of a given rank that keeps most of a layer's output, as two factors, for layers that read the same x."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ...cost_model.errors import InputError
from ..quantized_linear.formats import Prepared

SHARES = {"low_rank_half": 2, "low_rank_quarter": 4, "low_rank_eighth": 8}
"""Action -> the part of the dense multiplications that the two products take, as one over it; from the most accurate on."""

RANK_STEP = 16
"""Ranks are multiples of it: one vector of 16 floats, the tile of matrix units."""

ROWS_PER_RANK = 2
"""Rows of calibration inputs for each direction of a rank: as many rows as directions are met exactly, whatever they hold."""

DAMP = 0.01
"""Share of the mean diagonal of x^T x that is added to it: directions that the calibration data never takes still count a little."""


NEGLIGIBLE = 1e-7
"""Singular values below this share of the largest are lost in the rounding of their squares."""


LARGEST_SIDE = 2048
"""Weights whose smaller side is longer take minutes: finding singular values is cubic in it (seconds for 2,048)."""


def rank_of(action: str, features: int, columns: int) -> int:
    """The rank of `action` for a weight [K, N]: K N / (K + N), at which two thin products multiply as often as the dense one, over
    its share, cut to a multiple of `RANK_STEP`; 0 where nothing is left of it."""
    return features * columns // ((features + columns) * SHARES[action]) // RANK_STEP * RANK_STEP


def more_accurate(action: str) -> str:
    """The action that keeps the next larger rank; "" for the largest, and for what is no low rank."""
    names = list(SHARES)
    return names[names.index(action) - 1] if action in names[1:] else ""


def prepare_low_rank(
    action: str, weights: Sequence[np.ndarray], biases: Sequence[np.ndarray | None], activations: np.ndarray | None = None
) -> list[Prepared]:
    """For layers y_i = x W_i + b_i (W_i [K, N_i], b_i [N_i] or None): `Prepared` with `first` float32 [K, r], the same of all, `second`
    float32 [r, N_i] and, where the layer has one, `bias`; scalar `rank`.

    With inputs `activations` [M, K] the error ||x (W - U V)|| is the least of any matrix of that rank (`output_directions`) and biases take
    up the mean error; without, ||W - U V|| is. InputError for unknown actions, shapes that do not fit, too few inputs and values that are
    not finite."""
    if action not in SHARES:
        raise InputError(f"There is no rank {action!r} for linear layers; choose one of {', '.join(SHARES)}.")
    wide = np.concatenate([np.asarray(weight, np.float32) for weight in weights], axis=1)
    seen = None if activations is None else np.asarray(activations, np.float32)
    rank = _rank_or_fault(action, *wide.shape)
    if not np.isfinite(wide).all() or (seen is not None and not np.isfinite(seen).all()):
        raise InputError("A linear layer holds or reads values that are not finite, so it has no low rank; leave it as it is.")
    if seen is not None and (seen.ndim != 2 or seen.shape[1] != len(wide) or not len(seen)):
        raise InputError(
            f"Calibration inputs of a layer with {len(wide)} inputs must be [M, {len(wide)}], not {list(seen.shape)}."
        )
    if seen is not None and len(seen) < ROWS_PER_RANK * rank:
        raise InputError(
            f"A layer's calibration inputs are {len(seen)} rows, too few to tell a rank of {rank}; give more samples."
        )
    mean = None if seen is None or any(bias is None for bias in biases) else seen.mean(axis=0, dtype=np.float64)
    directions, _ = output_directions(wide, None if seen is None else damped_gram(seen, mean))
    kept = directions[:, :rank]
    first = (wide @ kept).astype(np.float32)
    missed = None if mean is None else mean @ (wide - first @ kept.T)
    found, start = [], 0
    for weight, bias in zip(weights, biases, strict=True):
        columns = slice(start, start + weight.shape[1])
        tensors = {"first": first, "second": np.ascontiguousarray(kept[columns].T, np.float32)}
        if bias is not None:
            shift = 0.0 if missed is None else missed[columns]
            tensors["bias"] = (np.asarray(bias, np.float64) + shift).astype(np.float32)
        found.append(Prepared(action, tensors, {"rank": rank}, len(wide), weight.shape[1]))
        start = columns.stop
    return found


def damped_gram(x: np.ndarray, mean: np.ndarray | None = None) -> np.ndarray:
    """float64 [K, K]: (x - mean)^T (x - mean), `DAMP` times its mean diagonal added; the identity where x [M, K] says nothing."""
    centred = torch.from_numpy(np.asarray(x, np.float64) - (0.0 if mean is None else mean))
    gram = centred.T @ centred
    size = float(gram.diagonal().mean())
    gram.diagonal().add_(DAMP * size if size > 0 else 1.0)
    return gram.numpy()


def output_directions(weight: np.ndarray, gram: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(B float64 [N, n], s [n]) with n = min(K, N): the right singular vectors of R W (zeros where the value is negligible), where
    R^T R = `gram` (positive definite; the identity for None) and W is [K, N], and its singular values, falling.

    With the first r columns B_r, W B_r B_r^T is the matrix of rank r with the least tr((W - W')^T gram (W - W')), which is the sum of the
    squares of the values left out (Eckart and Young, Psychometrika 1936, in the norm of the gram): no inverse of R is needed."""
    matrix = torch.from_numpy(np.asarray(weight, np.float64))
    if gram is not None:
        matrix = torch.linalg.cholesky(torch.from_numpy(gram)).T @ matrix
    wide = matrix.shape[1] > matrix.shape[0]
    squares, directions = torch.linalg.eigh(matrix @ matrix.T if wide else matrix.T @ matrix)
    sizes, directions = squares.flip(0).clamp(min=0).sqrt(), directions.flip(1)
    if wide:
        # From the left vectors to the right ones. Values that are zero to rounding have none, and nothing of W lies there.
        known = sizes > NEGLIGIBLE * sizes[0]
        directions = matrix.T @ torch.where(known, directions / torch.where(known, sizes, torch.ones_like(sizes)), 0.0)
    return directions.numpy(), sizes.numpy()


def stand_in(action: str, weights: Sequence[np.ndarray], biases: Sequence[np.ndarray | None]) -> list[Prepared]:
    """Factors of the right sizes with no meaning, for timing alone; InputError where the weights are too small."""
    features, columns = len(weights[0]), sum(weight.shape[1] for weight in weights)
    rank = _rank_or_fault(action, features, columns)
    first = np.full((features, rank), 0.01, np.float32)
    found = []
    for weight, bias in zip(weights, biases, strict=True):
        tensors = {"first": first, "second": np.full((rank, weight.shape[1]), 0.01, np.float32)}
        found.append(
            Prepared(action, tensors | ({} if bias is None else {"bias": bias}), {"rank": rank}, features, weight.shape[1])
        )
    return found


def simulate(prepared: Prepared, x: torch.Tensor) -> torch.Tensor:
    """y [M, N] = (x [M, K] U) V + b, all float32."""
    tensors = {name: torch.from_numpy(array) for name, array in prepared.tensors.items()}
    y = x @ tensors["first"] @ tensors["second"]
    return y + tensors["bias"] if "bias" in tensors else y


def _rank_or_fault(action: str, features: int, columns: int) -> int:
    """`rank_of`; InputError where it is 0."""
    rank = rank_of(action, features, columns)
    if rank == 0:
        raise InputError(f"A weight of {features} x {columns} is too small to be split at rank {RANK_STEP} or more.")
    return rank
