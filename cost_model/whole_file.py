"""`write_whole`: a file that is there whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from .errors import InputError

ADVICE = "name a file in a folder that can be written"


def check_place(path: str | Path, advice: str = ADVICE) -> None:
    """Raises InputError where `write_whole` would, if folders that are not there were made first; call it before long work. It leaves
    nothing behind."""
    target = Path(os.path.realpath(path))
    try:
        _refuse_others(path, target, advice)
        with suppress(FileNotFoundError):
            os.lstat(_beside(target))
        folder = next(above for above in target.parents if os.path.lexists(above))
        with TemporaryFile(dir=folder):
            pass
    except OSError as fault:
        raise InputError(f"{path} cannot be written: {fault.strerror or fault}; {advice}.") from fault


def write_whole(path: str | Path, text: str, advice: str = ADVICE) -> None:
    """`text` as the file `path`, in UTF-8 and in one rename: whoever is interrupted, or reads meanwhile, has the old file or the new one.

    A link stays one, and the file behind it is replaced. Raises InputError with the system's reason and `advice` where the place takes no
    file or holds something else (a folder, a device), and UnicodeEncodeError for what UTF-8 has no bytes for; either leaves nothing behind.
    """
    target = Path(os.path.realpath(path))
    beside = _beside(target)
    try:
        _refuse_others(path, target, advice)
        beside.write_text(text, encoding="utf-8", newline="")
        os.replace(beside, target)
    except OSError as fault:
        raise InputError(f"{path} cannot be written: {fault.strerror or fault}; {advice}.") from fault
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def _beside(target: Path) -> Path:
    return target.with_name(f"{target.name}.new")


def _refuse_others(path: str | Path, target: Path, advice: str) -> None:
    if os.path.lexists(target) and not target.is_file():
        raise InputError(f"{path} cannot be written: {'Is a directory' if target.is_dir() else 'Not a plain file'}; {advice}.")
