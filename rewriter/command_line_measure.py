"""`szilard measure` and `szilard compare`: seconds and joules of models as they run here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from . import command_line_options as options
from .command_line_output import columns, deliver, only_results_on_stdout, progress


def measure(
    model: options.Model,
    target: options.Target = "cpu",
    task: options.TaskOption = None,
    workload: options.WorkloadFile = None,
    shape: options.Shapes = None,
    rounds: options.Rounds = 30,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Seconds and joules of MODEL on this machine beside the prediction, or why joules are unavailable."""
    asked = options.workload_of(workload, shape)
    with only_results_on_stdout():
        from .measure import measure as run

        result = run(model, workload=asked, task=options.task_name(task), rounds=rounds, target=target, progress=progress)
    deliver(result, measure_text(result), as_json)


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
        from .measure import compare as run

        result = run(first, second, workload=asked, task=options.task_name(task), rounds=rounds, progress=progress)
    deliver(result, compare_text(result, first, second), as_json)


def measure_text(result: Mapping[str, Any]) -> str:
    """A table of the runs, and one sentence where joules could not be measured."""
    from .quantity import quantity
    from .report_view import unpriced_sentence

    rows = [("workload", "seconds predicted", "from", "measured", "interval", "joules modelled", "measured")]
    for run in result["runs"]:
        seconds, joules = run["seconds"], run["joules"]
        least = "at least " if joules.get("at_least") else ""
        rows.append(
            (
                run["workload"],
                ("" if seconds["predicted_from"] == "rewrite" else least) + quantity(seconds["predicted"], "s"),
                seconds["predicted_from"],
                quantity(seconds["measured"], "s"),
                f"{quantity(seconds['low'], 's')} to {quantity(seconds['high'], 's')}",
                least + quantity(joules["modelled"], "J"),
                "unavailable" if "unavailable" in joules else quantity(joules["measured"], "J"),
            )
        )
    reasons = dict.fromkeys(run["joules"]["unavailable"] for run in result["runs"] if "unavailable" in run["joules"])
    notes = [f"joules unavailable: {reason}" for reason in reasons]
    unpriced = dict.fromkeys(name for run in result["runs"] for name in run["joules"].get("unpriced", ()))
    notes += [unpriced_sentence(list(unpriced))] if unpriced else []
    return "\n".join([columns(rows, right=(1, 3, 4, 5, 6)), *notes])


def compare_text(result: Mapping[str, Any], first: str, second: str) -> str:
    """The ratio with its interval first, then both times, joules and the distance of the outputs."""
    from .quantity import number, quantity

    seconds, joules, error = result["seconds"], result["joules"], result["error"]
    lines = [
        f"B takes {seconds['ratio']:.3f} of the time of A (interval {seconds['low']:.3f} to {seconds['high']:.3f}, measured)"
    ]
    lines += [f"A  {quantity(seconds['a'], 's')}  {first}", f"B  {quantity(seconds['b'], 's')}  {second}"]
    if "unavailable" in joules:
        lines.append(f"joules unavailable: {joules['unavailable']}")
    else:
        pair = f"A {quantity(joules['a'], 'J')}, B {quantity(joules['b'], 'J')}"
        lines.append(f"joules: {pair}, ratio {joules['ratio']:.3f} ({joules['low']:.3f} to {joules['high']:.3f}, measured)")
    if "unavailable" in error:
        lines.append(f"error: {error['unavailable']}")
    else:
        lines.append(
            f"error of B against A: {number(error['relative_squared'])} relative squared, mean cosine {number(error['cosine'], 5)}"
        )
    return "\n".join(lines)
