"""Whether a linear layer stays within the range of float16 on the calibration data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..kernels.quantized_linear.half_formats import HALF_FORMATS, LARGEST_HALF


def out_of_range(
    action: str, weights: Sequence[np.ndarray], biases: Sequence[np.ndarray | None], inputs: Sequence[np.ndarray]
) -> str:
    """Why layers of weights [K, N] and biases [N] that read `inputs`, each [..., K], cannot take the format, "" if they can: what float16
    does not hold would be infinite. Nothing is known of inputs that are not among them."""
    if action not in HALF_FORMATS:
        return ""
    peaks = {"weights": _peak(weights), "inputs": _peak(inputs), "outputs": 0.0}
    for weight, bias in zip(weights, biases, strict=True):
        products = [x @ weight for x in inputs]
        peaks["outputs"] = max(peaks["outputs"], _peak(products), _peak([y if bias is None else y + bias for y in products]))
    beyond = [f"its {what} reach {peak:.3g}" for what, peak in peaks.items() if not peak <= LARGEST_HALF]
    return f"{beyond[0]}, and float16 holds numbers up to {LARGEST_HALF:.0f}" if beyond else ""


def _peak(arrays: Sequence[np.ndarray]) -> float:
    return float(max(np.abs(array).max(initial=0) for array in arrays))
