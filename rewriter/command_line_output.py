"""What a command prints: one result on stdout, everything else on stderr, and one sentence for every fault."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import textwrap
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from ..cost_model.errors import SzilardError

INTERRUPTED, TERMINATED = 130, 143
_WIDTH = 110
_DISK_FULL = ("no space left on device", "disk quota exceeded")


class Terminated(BaseException):
    """SIGTERM, in a form that unwinds the stack as Ctrl-C does, so that partial files are removed."""


_STOPS: dict[int, type[BaseException]] = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}
_stopped: list[BaseException] = []


@contextmanager
def only_results_on_stdout() -> Iterator[None]:
    """Within the block whatever else writes to stdout (a factory, an exporter, a C++ library) goes to stderr."""
    with redirect_stdout(sys.stderr):
        try:
            sys.__stdout__.flush()  # type: ignore[union-attr]
            kept = os.dup(1)
        except (OSError, AttributeError):
            yield
            return
        try:
            os.dup2(2, 1)
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)


def remember_signals() -> None:
    """From now on Ctrl-C and SIGTERM are exceptions, and one that a library swallowed (an exception in one of its callbacks is printed and
    forgotten) stops the command at its next step. A signal that is ignored, as for jobs in the background of a script, stays so."""

    def stop(number: int, frame: Any) -> None:
        _stopped.append(_STOPS[number]())
        raise _stopped[-1]

    for number in _STOPS:
        if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
            signal.signal(number, stop)


def progress(sentence: str) -> None:
    """One line about what is being done now, on stderr. Raises KeyboardInterrupt or Terminated where an earlier one was lost."""
    if _stopped:
        raise _stopped[-1]
    print(sentence, file=sys.stderr, flush=True)


def deliver(result: Any, text: str, as_json: bool) -> None:
    """Print the result of a command: with --json exactly one JSON document, else `text`. A reader that went away is no fault."""
    from .json_text import json_text

    try:
        sys.stdout.write(json_text(result) if as_json else text.rstrip("\n") + "\n")
        sys.stdout.flush()
    except OSError as fault:
        # Python flushes stdout once more at exit and would complain there, with an exit code of its own.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(fault, BrokenPipeError):
            raise


def columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows as aligned text; the columns whose numbers are in `right` are right-aligned."""
    if not rows:
        return ""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def wrapped(text: str, indent: str = "") -> str:
    """Lines that fit a window; names are kept whole, so that they can be copied."""
    return textwrap.fill(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent or "  ", break_long_words=False, break_on_hyphens=False
    )


def fault_sentence(fault: BaseException) -> tuple[str, int]:
    """One sentence for the user and the exit code: 2 and 3 as the fault says, 130 for Ctrl-C, 143 for SIGTERM, 1 for the rest. After
    either signal the fault is what a library made of it; a note on the signal itself says what was kept."""
    stop = _stopped[-1] if _stopped else fault
    if isinstance(stop, KeyboardInterrupt | Terminated):
        name, code = ("Interrupted", INTERRUPTED) if isinstance(stop, KeyboardInterrupt) else ("Terminated", TERMINATED)
        said = "nothing was half-written, and a file or folder that was there before is as it was"
        return f"{name}; {getattr(stop, '__notes__', [said])[-1]}.", code
    chain = _chain(fault)
    full = next((f for f in chain if _is_disk_full(f)), None)
    if full is not None:
        place = f" for {full.filename}" if isinstance(full, OSError) and full.filename else ""
        return f"There is no space left on the disk{place}; free some, or write to another disk with --out.", 1
    if isinstance(fault, SzilardError):
        return str(fault), fault.exit_code
    if any(isinstance(f, MemoryError) for f in chain):
        return "The machine ran out of memory; close other programs, or use a smaller batch with --shape.", 1
    first = (str(fault).strip().splitlines() or ["no message"])[0].rstrip(".")
    return (
        f"An unexpected fault stopped szilard: {type(fault).__name__}: {first}{_where(fault)}; --debug shows the traceback.",
        1,
    )


def report_fault(fault: BaseException, debug: bool) -> int:
    """Print the sentence of a fault on stderr, after its traceback if `debug`; returns the exit code."""
    if debug:
        traceback.print_exception(fault, file=sys.stderr)
    sentence, code = fault_sentence(fault)
    print(f"szilard: {sentence}", file=sys.stderr, flush=True)
    return code


def read_json(path: Path, what: str) -> Any:
    """The data of a JSON file. Raises InputError naming `what` when the file is missing or not JSON."""
    from ..cost_model.errors import InputError

    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise InputError(f"The {what} {path} cannot be read: {fault.strerror or fault}.") from fault
    except ValueError as fault:
        raise InputError(f"The {what} {path} is not JSON ({fault}).") from fault


def _chain(fault: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    current: BaseException | None = fault
    while current is not None and current not in found:
        found.append(current)
        current = current.__cause__ or current.__context__
    return found


def _is_disk_full(fault: BaseException) -> bool:
    if isinstance(fault, OSError) and fault.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    # safetensors and onnx report the system's message inside errors of their own.
    return any(words in str(fault).lower() for words in _DISK_FULL)


def _where(fault: BaseException) -> str:
    frames = traceback.extract_tb(fault.__traceback__)
    return f" (in {Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
