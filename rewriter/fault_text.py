"""Exceptions of other people's code as one line for a sentence of ours."""

from __future__ import annotations


def fault_text(fault: BaseException) -> str:
    """ "KeyError: 'wheel'": the type and the first line of the message, without a full stop; libraries add pages of advice."""
    lines = [line.strip() for line in str(fault).splitlines() if line.strip()]
    return f"{type(fault).__name__}: {lines[0].rstrip('.')}" if lines else type(fault).__name__


def root_fault_text(fault: BaseException) -> str:
    """The same of the exception that caused the others."""
    while fault.__cause__ is not None:
        fault = fault.__cause__
    return fault_text(fault)
