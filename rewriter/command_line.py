"""The `szilard` command: its sub-commands, and the one place where a fault becomes a sentence and an exit code.

Exit codes: 0 done, 1 unexpected fault, 2 bad input or usage, 3 an asked joule budget or a locked or edited plan that cannot be met, 130
Ctrl-C, 143 SIGTERM. Heavy libraries are imported inside the commands, so that `szilard --help` needs none of them.
"""

from __future__ import annotations

import sys
import warnings
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .command_line_calibrate import calibrate
from .command_line_estimate import devices, doctor, estimate
from .command_line_frontier import frontier
from .command_line_measure import compare, measure
from .command_line_options import DEBUG
from .command_line_output import Terminated, remember_signals, report_fault
from .command_line_rewrite import explain, rewrite
from .command_line_serve import serve_limits
from .command_line_validate import validate_model

# typer brings its own copy of click since 0.26 and used the real one before; this is the base class of usage errors in either.
_UsageFault: type[Exception] = typer.BadParameter.__mro__[2]


class _Guarded(TyperGroup):
    """Runs a command; what it raises becomes one sentence on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with warnings.catch_warnings():
                return super().invoke(ctx)
        except (typer.Exit, typer.Abort, SystemExit, _UsageFault):
            raise
        except BaseException as fault:
            raise typer.Exit(report_fault(fault, ctx.meta.get(DEBUG, False))) from fault


app = typer.Typer(
    cls=_Guarded,
    name="szilard",
    help="Rewrites a trained model so that it does the same work for fewer joules, and says how many, where, and why.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:
    if value:
        print(f"szilard {metadata.version('szilard')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options before the command."""


for _command in (rewrite, estimate, measure, compare, explain, frontier):
    app.command()(_command)
app.add_typer(devices, name="devices")
app.command()(doctor)
app.command()(calibrate)
app.command()(validate_model)
app.command()(serve_limits)


def main() -> None:
    """Runs the command that the arguments name; leaves with the documented exit code."""
    remember_signals()
    try:
        app(prog_name="szilard")
    except (KeyboardInterrupt, Terminated) as fault:
        sys.exit(report_fault(fault, debug=False))
