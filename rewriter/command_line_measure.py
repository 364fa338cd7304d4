"""`szilard measure` and `szilard compare`: seconds and joules of models as they run here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..cost_model.errors import InputError
from . import command_line_options as options
from .command_line_output import deliver, only_results_on_stdout, progress, wrapped


def measure(
    model: options.Model,
    target: options.Target = "cpu",
    task: options.TaskOption = None,
    workload: options.WorkloadFile = None,
    shape: options.Shapes = None,
    rounds: options.Rounds = 30,
    against: Annotated[
        str | None,
        typer.Option(metavar="ORIGINAL", help="The model that this one was rewritten from: both run in turn, in one table."),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="measurements.csv of an earlier run: its joules are shown as replayed, no counter is read."
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where the rows go. Default: measurements.csv in a folder that szilard wrote."),
    ] = None,
    family: Annotated[
        str,
        typer.Option(help="What kind of model it is, in the rows: families are held out as a whole. Default: its name."),
    ] = "",
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Seconds and joules of MODEL on this machine beside the prediction, whole and by class of op, or why joules are unavailable."""
    asked = options.workload_of(workload, shape)
    if replay is not None and csv is not None:
        raise InputError("--replay measures no joules, so that there are no new rows for --csv; give one of them.")
    with only_results_on_stdout():
        from .measure import measure as run
        from .measure_text import measure_text
        from .measured_rows import check_csv, csv_path, measured_rows, save_rows
        from .subject import family_of

        path = csv_path(model, csv) if replay is None else None
        if path is not None:
            check_csv(path)
        result = run(
            model,
            workload=asked,
            task=options.task_name(task),
            rounds=rounds,
            target=target,
            against=against,
            replay=replay,
            progress=progress,
        )
        named = family.strip() or family_of(model)
    deliver(result, measure_text(result), as_json)
    if path is not None:
        save_rows(path, measured_rows(result, named))
        progress(f"wrote {path}")


def compare(
    first: Annotated[str, typer.Argument(metavar="A", show_default=False, help="A model or a folder that szilard wrote.")],
    second: Annotated[str, typer.Argument(metavar="B", show_default=False, help="The other one.")],
    task: options.TaskOption = None,
    workload: options.WorkloadFile = None,
    shape: options.Shapes = None,
    rounds: options.Rounds = 30,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Two models or folders in one interleaved run: the time and energy of B against A, and how far their outputs are apart."""
    asked = options.workload_of(workload, shape)
    with only_results_on_stdout():
        from .compare import compare as run

        result = run(first, second, workload=asked, task=options.task_name(task), rounds=rounds, progress=progress)
    deliver(result, compare_text(result, first, second), as_json)


def compare_text(result: Mapping[str, Any], first: str, second: str) -> str:
    """The ratio with its interval first, then both times, joules and the distance of the outputs."""
    from .quantity import number, quantity

    seconds, joules, error = result["seconds"], result["joules"], result["error"]
    lines = [
        f"B takes {seconds['ratio']:.3f} of the time of A (interval {seconds['low']:.3f} to {seconds['high']:.3f}, measured)"
    ]
    lines += [
        f"{side}  {quantity(seconds[side.lower()], 's')} measured  {name}" for side, name in (("A", first), ("B", second))
    ]
    if "unavailable" in joules:
        lines.append(wrapped(f"joules unavailable: {joules['unavailable']}"))
    else:
        pair = f"A {quantity(joules['a'], 'J')}, B {quantity(joules['b'], 'J')}"
        interval = f"{joules['low']:.3f} to {joules['high']:.3f}"
        lines.append(f"joules: {pair}, ratio {joules['ratio']:.3f} (interval {interval}, {joules['label']})")
    if "unavailable" in error:
        lines.append(f"error: {error['unavailable']}")
    else:
        lines.append(
            f"error of B against A: {number(error['relative_squared'])} relative squared, mean cosine {number(error['cosine'], 5)} "
            "(measured)"
        )
    return "\n".join(lines)
