"""How far apart the outputs of two models are on the same inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..cost_model.program import Program
from .backend import Arrays
from .calibration_data import relative_error
from .padding import kept_tokens, token_rows
from .timed_model import Bind, bound_call, named_outputs


def output_distance(a: Program, b: Program, binds: Sequence[Bind], samples: Sequence[Arrays]) -> dict[str, Any]:
    """How far B's outputs are from A's on `samples`: "relative_squared" error over all outputs, and the mean "cosine" of the rows of the
    first output; "unavailable" with a sentence where they cannot be compared."""
    if len(a.outputs) != len(b.outputs):
        return {"unavailable": f"A has {len(a.outputs)} outputs and B has {len(b.outputs)}, so they cannot be compared."}
    # Two exporters name the same output differently; its place is what both agree on.
    match = dict(zip(b.outputs, b.outputs if set(a.outputs) == set(b.outputs) else a.outputs, strict=True))
    expected = [named_outputs(a, bound_call(binds[0], a, feeds)) for feeds in samples]
    got = [{match[n]: v for n, v in named_outputs(b, bound_call(binds[1], b, feeds)).items()} for feeds in samples]
    name = a.outputs[0]
    if any(left[name].shape != right[name].shape for left, right in zip(expected, got, strict=True)):
        return {"unavailable": f"The output {name} has different shapes in A and B, so they cannot be compared."}
    cosines = [_cosine(w[name], g[name], kept_tokens(s)) for w, g, s in zip(expected, got, samples, strict=True)]
    return {
        "relative_squared": relative_error(got, expected, samples),
        "cosine": float(np.mean(cosines)),
        "samples": len(samples),
    }


def _cosine(left: np.ndarray, right: np.ndarray, kept: np.ndarray | None) -> float:
    x, y = (token_rows(np.atleast_1d(array), kept).astype(np.float64) for array in (left, right))
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return float(np.mean(np.where(lengths > 0, np.sum(x * y, axis=1) / np.where(lengths > 0, lengths, 1.0), 1.0)))
