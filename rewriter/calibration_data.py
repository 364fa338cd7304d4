"""Calibration data: read it, check it against the model's inputs, and split it into samples for scoring and held-out ones."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from ..cost_model.errors import InputError
from ..cost_model.program import Program
from ..models.cache_names import is_cache
from .fault_text import fault_text
from .padding import kept_tokens
from .sample import checked_sample

Sample = Mapping[str, np.ndarray]

NUMBERS_AT_ONCE = 1 << 16
"""Numbers compared at a time: they stay in the cache, where the logits of a language model (2e8 of them) leave the memory."""


@dataclass(frozen=True)
class CalibrationData:
    """`scoring` samples choose formats and ranges; `held_out` ones are only ever used for the final check. With a single
    sample both are that sample and `is_held_out` is False."""

    scoring: tuple[Sample, ...]
    held_out: tuple[Sample, ...]
    is_held_out: bool


def read_calibration(source: Any, program: Program) -> CalibrationData | None:
    """Calibration from an .npz path (keys = input names, an extra leading axis = samples), a mapping of such arrays, or an
    iterable of dicts input name -> array. Every second sample is held back, so that both halves mix lengths alike.

    Returns None for None. Raises InputError naming the file, key, shape or dtype that does not fit the model.
    """
    if source is None or isinstance(source, CalibrationData):
        return source
    if isinstance(source, (str, Path)):
        source = _read_archive(Path(source))
    samples = _unstack(source) if isinstance(source, Mapping) else _listed(source)
    if not samples:
        raise InputError("The calibration data holds no sample; give at least two, so that one can be held back for the check.")
    hint = " (in an .npz, one more axis in front counts samples)"
    checked = tuple(
        checked_sample(sample, program, f"Calibration sample {number}", hint) for number, sample in enumerate(samples)
    )
    if len(checked) == 1:
        return CalibrationData(checked, checked, is_held_out=False)
    return CalibrationData(checked[::2], checked[1::2], is_held_out=True)


def _listed(source: Any) -> list[dict[str, Any]]:
    samples = list(source) if isinstance(source, Iterable) else [source]
    for number, sample in enumerate(samples):
        if not isinstance(sample, Mapping):
            raise InputError(
                f"Calibration sample {number} is a {type(sample).__name__}; each sample is a dict of input name to array."
            )
    return [dict(sample) for sample in samples]


def _read_archive(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise InputError(f"Calibration file {path} does not exist; write one with numpy.savez(path, input_name=array, ...).")
    try:
        archive = np.load(path, allow_pickle=False)
        if not hasattr(archive, "files"):
            raise InputError(
                f"Calibration file {path} holds a single array; save an .npz whose keys are the model's input names."
            )
        with archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, KeyError, AttributeError, zipfile.BadZipFile, zlib.error) as fault:
        # numpy takes other bytes for a pickle, and advises to load it unsafely.
        reason = "it holds no plain arrays" if "pickle" in str(fault) else fault_text(fault)
        raise InputError(
            f"Calibration file {path} is not a readable .npz archive ({reason}); write it with numpy.savez."
        ) from fault


def _unstack(arrays: Mapping[str, Any]) -> list[dict[str, np.ndarray]]:
    stacked = {name: np.asarray(array) for name, array in arrays.items()}
    if any(array.ndim == 0 for array in stacked.values()):
        raise InputError("Each calibration array needs a leading axis that counts samples.")
    counts = {name: len(array) for name, array in stacked.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f"The calibration arrays disagree on the number of samples (their first axis): {counts}.")
    return [{name: array[i] for name, array in stacked.items()} for i in range(next(iter(counts.values()), 0))]


def relative_error(
    outputs: Iterable[Mapping[str, np.ndarray]],
    reference: Iterable[Mapping[str, np.ndarray]],
    samples: Sequence[Sample] | None = None,
) -> float:
    """||y - y0||^2 / ||y0||^2 over all float outputs of all samples (design: the error of a rewrite); integer outputs count
    the share of elements that differ. A NaN where the reference has none gives infinity.

    Outputs [B, L, D] of `samples` that are padded count at the tokens that are there alone; where no samples are given, everywhere.

    Key/value caches are summed by themselves, and the larger of the two errors counts: they hold far more numbers than the logits beside
    them, which would not be seen in one sum.
    """
    sums = {caches: np.zeros(2) for caches in (False, True)}
    kept = repeat(None) if samples is None else map(kept_tokens, samples)
    for (got, want), tokens in zip(zip(outputs, reference, strict=True), kept, strict=samples is not None):
        for name, expected in want.items():
            found = _squares(got[name], expected, None if is_cache(name) else tokens)
            if found is None:
                return float("inf")
            sums[is_cache(name)] += found
    return max(_ratio(difference, scale) for difference, scale in sums.values())


def _squares(actual: np.ndarray, expected: np.ndarray, tokens: np.ndarray | None) -> tuple[float, float] | None:
    """(||y - y0||^2, ||y0||^2) of one output, of integers (elements that differ, elements), of the `tokens` [B, L] alone where it is
    [B, L, D]; None where no distance is finite, at padding too: it would reach means over the tokens as NaN."""
    if actual.shape != expected.shape:
        return None
    # [B, D] of one vector a text may have as many columns as there are tokens.
    counted = np.ones((1, 1), bool)
    if tokens is not None and expected.ndim == 3 and expected.shape[:2] == tokens.shape:
        counted = tokens.reshape(-1, 1)
    rows = len(counted)
    wide = expected.reshape(rows, -1), actual.reshape(rows, -1)
    difference = scale = 0.0
    for part in _parts(*wide[0].shape):
        wanted, found = (x[part] for x in wide)
        used = np.broadcast_to(counted[part[0]], wanted.shape)
        if expected.dtype.kind != "f":
            difference += float(np.count_nonzero((wanted != found) & used))
            scale += float(np.count_nonzero(used))
            continue
        wanted, found = wanted.astype(np.float64), found.astype(np.float64)
        finite = np.isfinite(wanted)
        if not np.array_equal(np.isfinite(found), finite):
            return None
        used = used & finite
        if not used.all():
            wanted, found = wanted[used], found[used]
        apart = found - wanted
        difference += float(np.vdot(apart, apart))
        scale += float(np.vdot(wanted, wanted))
    return difference, scale


def _parts(rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Of an array of that size, about `NUMBERS_AT_ONCE` at a time."""
    wide = min(columns, NUMBERS_AT_ONCE)
    high = NUMBERS_AT_ONCE // max(1, wide)
    for row in range(0, rows, high):
        for column in range(0, columns, NUMBERS_AT_ONCE):
            yield slice(row, row + high), slice(column, column + NUMBERS_AT_ONCE)


def _ratio(difference: float, scale: float) -> float:
    if difference == 0:
        return 0.0
    return float(difference / scale) if scale > 0 else float("inf")
