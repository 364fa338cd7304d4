"""Errors of options, kept on the disk as they are measured: a run that was killed goes on where it stopped, and a new budget needs no run
of the model. Errors belong to a model, to what was calibrated on, and to the code that rounds: with others, another file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from math import inf, isfinite
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from ..cost_model.cpu_features import products_saturate
from ..cost_model.errors import InputError
from ..cost_model.net import Net
from ..cost_model.weight_structure import Estimate, Structure
from .backend import Arrays
from .calibration_data import CalibrationData
from .candidates import code_digest
from .part_file import PartFile
from .score import Score

LINEAR = "linear"
STRUCTURE = "structure"
MOST_FILES = 64
"""Files kept, some 10 kB each; the one not used for longest goes first."""


class ScoreFile:
    """Errors by (kind, group, format), in one file of `folder` for each stamp. One that cannot be read or written costs time, never the
    run."""

    def __init__(self, folder: Path, stamp: Mapping[str, Any]) -> None:
        digest = hashlib.sha256(repr(sorted(stamp.items())).encode()).hexdigest()[:24]
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            _make_room(folder, digest)
        self._file = PartFile(folder / f"{digest}.json", stamp)

    @property
    def path(self) -> Path:
        """Where it is."""
        return self._file.path

    def scores(self) -> dict[tuple[str, str], Score]:
        """What is known of linear sites, all `remembered`: (group, format) -> Score."""
        rows = {tuple(name.split("\n")): error for name, error in self._file.rows.items()}
        structures = {key[1:]: _estimates(row) for key, row in rows.items() if key[0] == STRUCTURE}
        return {
            (group, action): Score(
                inf if error is None else float(error), {}, structure=structures.get((group, action), ()), remembered=True
            )
            for (kind, group, action), error in rows.items()
            if kind == LINEAR
        }

    def keep(self, kind: str, key: tuple[str, str], score: Score) -> None:
        """Keep an error of sites of a kind; it reaches the disk within seconds."""
        with suppress(InputError):
            self._file.put("\n".join((kind, *key)), score.error if isfinite(score.error) else None)
            if score.structure:
                self._file.put("\n".join((STRUCTURE, *key)), [asdict(each) for each in score.structure])

    def write(self) -> None:
        """Put all on the disk."""
        with suppress(InputError):
            self._file.write()


def _estimates(rows: Sequence[Mapping[str, Any]]) -> tuple[Estimate, ...]:
    return tuple(Estimate(**{**row, "structure": Structure(**row["structure"])}) for row in rows)


class NoScoreFile:
    """What a run without data, or without a folder, keeps: nothing."""

    def scores(self) -> dict[tuple[str, str], Score]:
        """None."""
        return {}

    def keep(self, kind: str, key: tuple[str, str], score: Score) -> None:
        """Forget it."""

    def write(self) -> None:
        """Nothing."""


def kept_scores(folder: Path | None, runtime: str, net: Net, calibration: CalibrationData | None) -> ScoreFile | NoScoreFile:
    """The scores of `net` on that calibration, kept in `folder`."""
    if folder is None or calibration is None:
        return NoScoreFile()
    return ScoreFile(folder, stamp_of(runtime, net, calibration.scoring, "measured"))


def default_folder() -> Path:
    """Where score files are: a folder of the user's cache."""
    return Path(platformdirs.user_cache_dir("szilard")) / "scores"


def stamp_of(runtime: str, net: Net, samples: Sequence[Arrays], way: str) -> dict[str, str]:
    """What errors depend on: the model by its ops and every number in it, the calibration samples, the code, the processor's arithmetic
    and the `way` in which they are found ("measured" or "gradients")."""
    model = hashlib.sha256(signature_of(net).encode())
    for name, array in _weights_of(net):
        model.update(name.encode())
        _update(model, array)
    data = hashlib.sha256()
    for sample in samples:
        for name in sorted(sample):
            data.update(name.encode())
            _update(data, np.asarray(sample[name]))
    return {
        "runtime": runtime,
        "model": model.hexdigest(),
        "data": data.hexdigest(),
        "code": f"{code_digest()}-{_scoring_digest()}",
        "narrow": str(products_saturate()),
        "way": way,
    }


def signature_of(net: Net) -> str:
    """The ops of a net with their attributes and the names between them, those of branches and loop bodies too."""
    ops = [
        (
            op.id,
            op.target,
            sorted((k, str(v)) for k, v in op.attributes.items()),
            op.inputs,
            op.outputs,
            [signature_of(body) for body in op.branches],
        )
        for op in net.ops.values()
    ]
    return repr((ops, net.outputs))


def _weights_of(net: Net) -> Iterator[tuple[str, Any]]:
    """(name, array) of every constant, those of branches and loop bodies too."""
    for name, value in sorted(net.values.items()):
        if value.load is not None:
            yield name, np.asarray(value.load())
    for op in net.ops.values():
        for body in op.branches:
            yield from _weights_of(body)


def _update(digest: Any, array: np.ndarray) -> None:
    digest.update(f"{array.dtype}{array.shape}".encode())
    digest.update(repr(array.tolist()).encode() if array.dtype.kind in "OUS" else np.ascontiguousarray(array).tobytes())


@cache
def _scoring_digest() -> str:
    """A short hash of the code that makes scores, beside that of kernels and passes."""
    here = Path(__file__).parent
    rooms = {
        here: ("score*.py", "runtime_*.py", "calibration_data.py", "padding.py"),
        here.parent / "cost_model": ("fisher.py", "block_gradients.py"),
    }
    sources = sorted(path for room, names in rooms.items() for name in names for path in room.glob(name))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:8]


def _make_room(folder: Path, mine: str) -> None:
    """One file less than the most beside `mine`."""
    files = sorted((f for f in folder.glob("*.part") if not f.name.startswith(mine)), key=lambda path: path.stat().st_mtime)
    for path in files[: max(0, len(files) - MOST_FILES + 1)]:
        path.unlink(missing_ok=True)
