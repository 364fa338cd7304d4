"""`szilard frontier`: joules against error from the table of a folder, and the plan of another budget."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from . import command_line_options as options
from .command_line_output import columns, deliver, only_results_on_stdout, wrapped

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", show_default=False, help="A folder that `szilard rewrite` wrote.")]
Error = Annotated[
    float | None, typer.Option("--budget", help="Plan again for this relative squared error (predicted), in under a second.")
]
Joules = Annotated[float | None, typer.Option("--joules", help="Plan again for these joules per call, with the least error.")]
Runtime = Annotated[
    str, typer.Option("--runtime", show_default="the one whose file ships", help="Of a PyTorch input: torch or onnxruntime.")
]
PlanOut = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Write the plan, for `szilard rewrite MODEL --plan FILE`.")
]


def frontier(
    folder: Folder,
    budget: Error = None,
    joules: Joules = None,
    runtime: Runtime = "",
    out: PlanOut = None,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Print joules against error of the plans that a rewritten FOLDER could have, or plan again for another budget, without the model."""
    from ..cost_model.errors import InputError
    from ..cost_model.whole_file import write_whole
    from .frontier import read_tables, resolved, unmeasured
    from .json_text import json_text

    limit = options.budget_of(budget, joules, "", exact=False)
    asked = budget is not None or joules is not None
    if out is not None and not asked:
        raise InputError("--out writes the plan of one budget; give --budget or --joules.")
    plan, report, tables = read_tables(folder, runtime)
    table = tables[0]
    taken = table.point([choice for choices in table.programs.values() for choice in choices])
    error = report["runtimes"][table.runtime]["error"]
    found: dict[str, Any] = {
        "folder": str(folder),
        "runtime": table.runtime,
        "taken": {**_row(taken), "measured_error": error["measured"], "held_out": bool(error.get("held_out"))},
        "unmeasured_options": unmeasured(table),
    }
    started = time.perf_counter()
    with only_results_on_stdout():
        # The solver prints.
        points = [table.solve(limit)] if asked else list(table.frontier())
        others = [each.solve(limit) for each in tables[1:]] if asked and joules is None else []
    found["solve_seconds"] = time.perf_counter() - started
    if asked:
        found |= {"budget": {"error": budget, "joules": joules}, "plan": {**_row(points[0]), "sites": _sites(points[0])}}
    else:
        found["points"] = [_row(point) for point in points]
    if out is not None:
        write_whole(out, json_text(resolved(plan, [*points, *others], limit).to_json()))
        found["written"] = str(out)
    deliver(found, frontier_text(found), as_json)


def frontier_text(found: dict[str, Any]) -> str:
    """The table, for people."""
    from .quantity import number, quantity

    def line(name: str, row: dict[str, Any]) -> tuple[str, ...]:
        actions = ", ".join(f"{action} {count}" for action, count in row["actions"].items())
        return name, number(row["error"], 3), quantity(row["joules"], "J"), quantity(row["seconds"], "s"), actions

    taken = found["taken"]
    heading = ("", "error", "joules", "seconds", "what is taken")
    rows = [line("", row) for row in found["points"]] if "points" in found else [line("plan", found["plan"])]
    lines = [
        f"Plans on {found['runtime']} by one table of prices and errors: predicted error, modelled joules and seconds per call.",
        "",
        columns([heading, *rows, line("this folder", taken)], right=(1, 2, 3)),
        "",
    ]
    if "plan" in found:
        lines.append(
            f"gap to the solver's bound: {found['plan']['gap']:.2g}; planned in {quantity(found['solve_seconds'], 's')}"
        )
        lines += [f"  {site}: {action}" for site, action in found["plan"]["sites"].items() if action != "leave"]
    data = "held-out data" if taken["held_out"] else "the data that it was made with, or on the sample inputs without any"
    errors = [number(taken[key], 3) for key in ("error", "measured_error")]
    lines.append(wrapped(f"This folder's plan was predicted {errors[0]} and measured {errors[1]} on {data}."))
    if found["unmeasured_options"]:
        lines.append(wrapped(f"{found['unmeasured_options']} options have no measured error and are in none of these plans."))
    lines += [f"written to {found['written']}"] if "written" in found else []
    return "\n".join(lines)


def _row(point: Any) -> dict[str, Any]:
    return {
        "joules": point.joules,
        "seconds": point.seconds,
        "error": point.error,
        "gap": point.gap,
        "actions": point.actions,
    }


def _sites(point: Any) -> dict[str, str]:
    return {f"{c.program}: {c.site}" if c.program else c.site: c.action for c in point.choices}
