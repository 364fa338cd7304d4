"""The first thing that the `szilard` script runs: signals have their sentence before anything that takes long is imported."""

from __future__ import annotations

import sys

from .command_line_output import Terminated, remember_signals, report_fault


def main() -> None:
    """The entry point of the console script; leaves with the documented exit code."""
    remember_signals()
    try:
        from .command_line import main as run

        run()
    except (Exception, KeyboardInterrupt, Terminated) as fault:
        sys.exit(report_fault(fault, debug=False))
