"""The options that several commands share, with the words that `--help` prints, and what they mean together."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..cost_model.errors import InputError
from ..cost_model.plan import Budget, Workload
from .workload import parse_shapes, read_workload

DEBUG = "szilard.debug"


class Task(StrEnum):
    """What a model is for: it names the inputs to make and the metric to use."""

    embed = "embed"
    classify = "classify"
    causal_lm = "causal-lm"
    none = "none"


def _remember_debug(context: typer.Context, value: bool) -> bool:
    if not value:
        # Libraries warn about their own insides; what a user must know comes as a note of the result.
        warnings.simplefilter("ignore")
    context.meta[DEBUG] = context.meta.get(DEBUG, False) or value
    return value


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        show_default=False,
        help="model.onnx, model.pt2, package.module:factory, hf:DIR, or a folder that szilard wrote.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]
Debug = Annotated[
    bool,
    typer.Option("--debug", help="Show the traceback of a fault.", callback=_remember_debug, is_eager=True, expose_value=True),
]
Target = Annotated[str, typer.Option(help="A device profile: a name that `szilard devices` lists, or a JSON file.")]
TaskOption = Annotated[Task | None, typer.Option("--task", help="What the model is for: the inputs to make and the metric.")]
WorkloadFile = Annotated[
    Path | None,
    typer.Option("--workload", metavar="FILE", help='JSON list of {"name", "shapes": {input: [dims]}, "weight", "context"}.'),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="NAME=1x128:WEIGHT",
        help="A shape to optimise for; repeat it, put commas between inputs of one shape. 8x1@2048 decodes one new token of 8 "
        "sequences with 2048 in the cache.",
    ),
]
Rounds = Annotated[int, typer.Option(min=3, help="How many times each model is timed.")]


def workload_of(file: Path | None, shapes: Sequence[str] | None) -> Workload | None:
    """The workload that --workload or --shape asks for, None for neither. Raises InputError for both."""
    if file is not None and shapes:
        raise InputError("--workload and --shape both name the shapes; give one of them.")
    if file is not None:
        return read_workload(file)
    return parse_shapes(shapes) if shapes else None


def budget_of(error: float | None, joules: float | None, metric: str, exact: bool) -> Budget:
    """The budget that --budget, --joules and --exact ask for (relative squared error, or J per call). InputError where they disagree."""
    given = [
        name for name, value in (("--budget", error), ("--joules", joules), ("--exact", exact or None)) if value is not None
    ]
    if len(given) > 1:
        raise InputError(f"{given[0]} and {given[1]} contradict each other; give one of them.")
    for name, value in (("--budget", error), ("--joules", joules)):
        least = "not negative" if name == "--budget" else "above zero"
        if value is not None and not (math.isfinite(value) and value >= 0 and (value or name == "--budget")):
            raise InputError(f"{name} {value} is not a budget; give a number that is {least}.")
    if exact:
        return Budget(error=0.0, metric=metric)
    return Budget(error=Budget().error if error is None else error, joules=joules, metric=metric)


def task_name(task: Task | None) -> str | None:
    """The word that the library takes for a task."""
    return task.value if task is not None else None
