"""`szilard calibrate`: a device profile measured on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from . import command_line_options as options
from .command_line_output import columns, deliver, only_results_on_stdout, progress


def calibrate(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", show_default=False, help="The profile to write (JSON).")],
    device: Annotated[str, typer.Option("--device", help='"cpu", or "cuda:0" for the first card.')] = "cpu",
    passes: Annotated[int, typer.Option(min=1, help="How often each microbenchmark is timed.")] = 5,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Measure a device with matched microbenchmarks (under five minutes; a stopped run goes on) and write its profile to FILE."""
    with only_results_on_stdout():
        from .calibrate import calibrate as run
        from .part_file import part_of

        try:
            result = run(device, out, passes=passes, progress=progress)
        except BaseException as fault:
            if not isinstance(fault, Exception) and part_of(out).is_file():
                fault.add_note(f"what was measured is in {part_of(out)}, and the same command goes on from there")
            raise
    deliver(result, calibrate_text(result), as_json)


def calibrate_text(result: Mapping[str, Any]) -> str:
    """What was fitted, how well, what was refused and why."""
    lines = [f"{result['profile']}: use it with --target {result['profile']}"]
    lines += columns([(name.replace("_", " "), str(value)) for name, value in _facts(result)]).splitlines()
    lines += [f"no law for {kernel}: {why}" for kernel, why in result.get("refused", {}).items()]
    return "\n".join(lines)


def _facts(result: Mapping[str, Any]) -> list[tuple[str, Any]]:
    named = ("kernels", "rows", "median_error", "condition", "split_hash", "joules")
    shown = {name: result[name] for name in named if name in result}
    if "median_error" in shown:
        shown["median_error"] = f"{shown['median_error']:.1%} of a kernel's microbenchmarks, median of all kernels (seconds)"
    return list(shown.items())
