"""The output folder: written beside its place and moved there in one rename, so that a killed run leaves the old one or the new one."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..cost_model.errors import InputError

_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
_AT_FDCWD = -100


def is_emitted(folder: Path) -> bool:
    """Whether Szilard wrote this folder: it holds plan.json and report.json."""
    return (folder / "plan.json").is_file() and (folder / "report.json").is_file()


def check_target(out: str | Path, force: bool) -> Path:
    """The absolute path of `out`, when a new folder may be put there; call it before long work.

    Raises InputError when the parent is missing, when `out` is a file, when it exists and `force` is off, and when it is a folder that
    Szilard did not write (which is never deleted).
    """
    target = Path(out).expanduser().resolve()
    if not target.name:
        raise InputError(f"--out {out} is the root of a file system; name a new folder.")
    if not target.parent.is_dir():
        raise InputError(f"--out {out} cannot be written: the folder {target.parent} does not exist; make it first.")
    if target.exists() and not target.is_dir():
        raise InputError(f"--out {out} is a file; name a new folder.")
    if target.exists() and not force:
        raise InputError(f"--out {out} exists already; name another folder, or replace it with --force.")
    if target.exists() and not is_emitted(target) and any(target.iterdir()):
        raise InputError(
            f"--out {out} is not a folder that szilard wrote, so --force does not replace it; name another folder."
        )
    return target


@contextmanager
def new_folder(out: str | Path, force: bool = False) -> Iterator[Path]:
    """Gives an empty folder beside `out`; when the block ends without an error it takes the place of `out` in one rename.

    On any error, Ctrl-C or SIGTERM the partial folder is removed and the old `out` is as it was. What SIGKILL left behind is removed by
    the next run: a partial folder belongs to a live run only while that run holds its lock. Raises InputError as `check_target` does.
    """
    name, parent = Path(out).expanduser().resolve().name, Path(out).expanduser().resolve().parent
    if parent.is_dir():
        _clear_stale(parent, name)
    target = check_target(out, force)
    partial = parent / f".{name}.partial-{os.getpid()}"
    try:
        partial.mkdir()
    except OSError as fault:
        raise InputError(f"--out {out} cannot be written: {fault.strerror or fault} in {parent}.") from fault
    lock = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with _terminate_as_exception():
            yield partial
            check_target(out, force)
            _move_into_place(partial, target)
    finally:
        # After an exchange this path holds the replaced folder; after an error it holds the unfinished one.
        shutil.rmtree(partial, ignore_errors=True)
        os.close(lock)


def _move_into_place(partial: Path, target: Path) -> None:
    if not target.exists():
        os.rename(partial, target)
    elif not _exchange(partial, target):
        # Where the system cannot exchange two names, a kill between these renames is undone by `_clear_stale` of the next run.
        old = target.parent / f".{target.name}.old-{os.getpid()}"
        os.rename(target, old)
        try:
            os.rename(partial, target)
        except BaseException:
            os.rename(old, target)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step (Linux, renameat2); False where the system or the file system has no such call."""
    call: Any = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    return call(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), ctypes.c_uint(_EXCHANGE)) == 0


def _clear_stale(parent: Path, name: str) -> None:
    for stale in parent.glob(f".{_literal(name)}.old-*"):
        if (parent / name).exists():
            shutil.rmtree(stale, ignore_errors=True)
        else:
            os.rename(stale, parent / name)
    for stale in parent.glob(f".{_literal(name)}.partial-*"):
        with suppress(OSError):
            lock = os.open(stale, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(stale, ignore_errors=True)
            finally:
                os.close(lock)


def _literal(name: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)


@contextmanager
def _terminate_as_exception() -> Iterator[None]:
    """Within the block SIGTERM raises SystemExit(143), so that the partial folder is removed; a handler of the program's own stays."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(signum: int, frame: Any) -> None:
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
