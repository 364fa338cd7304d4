"""`szilard rewrite` and `szilard explain`: rewrite a model into a folder, and say why it came out so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..cost_model.onnx_style import OnnxStyle
from ..cost_model.plan import Choice
from ..cost_model.sites import Kind
from . import command_line_options as options
from .command_line_output import columns, deliver, only_results_on_stdout, progress

Out = Annotated[Path, typer.Option("--out", metavar="DIR", show_default=False, help="The folder to write.")]
Calibration = Annotated[
    Path | None,
    typer.Option("--calib", metavar="NPZ", help="Calibration inputs: keys are input names, the first axis counts samples."),
]
DataFree = Annotated[
    bool,
    typer.Option(
        "--data-free",
        help="Use no calibration data: take formats whose error the weights alone tell, checked on the sample inputs.",
    ),
]
ErrorBudget = Annotated[
    float | None,
    typer.Option(
        "--budget", help="Largest relative squared error of the outputs, or with a metric its largest drop. [default: 0.02]"
    ),
]
JouleBudget = Annotated[
    float | None, typer.Option("--joules", help="Joules per call to reach with the least error, instead of --budget.")
]
Metric = Annotated[str, typer.Option("--metric", metavar="MODULE:FUNCTION", help="The metric that the budget limits.")]
PlanFile = Annotated[Path | None, typer.Option("--plan", metavar="FILE", help="Replay a plan.json, edited or not.")]
Exact = Annotated[bool, typer.Option("--exact", help="Only rewrites that are equal to dtype rounding.")]
TargetOrPlan = Annotated[
    str,
    typer.Option(
        "--target",
        show_default="cpu, or the plan's",
        help="A device profile: a name that `szilard devices` lists, or a JSON file.",
    ),
]
Only = Annotated[
    list[Kind] | None,
    typer.Option("--only", show_default="all", help="A kind of sites that may change; repeat it. Others stay as they are."),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        "--include",
        metavar="PATTERN",
        show_default="all",
        help="Names of sites that alone may change, as a shell pattern; repeat it.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        metavar="PATTERN",
        show_default="none",
        help="Names of sites to leave as they are, as a shell pattern; repeat it.",
    ),
]
Style = Annotated[
    OnnxStyle | None,
    typer.Option(
        "--onnx-style",
        show_default="runtime, or the plan's",
        help="The operators an .onnx file is written in: onnxruntime's own, or standard ONNX alone (QuantizeLinear and DequantizeLinear).",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace a folder that szilard wrote.")]


def rewrite(
    model: options.Model,
    out: Out,
    target: TargetOrPlan = "",
    calib: Calibration = None,
    data_free: DataFree = False,
    budget: ErrorBudget = None,
    joules: JouleBudget = None,
    metric: Metric = "",
    task: options.TaskOption = None,
    workload: options.WorkloadFile = None,
    shape: options.Shapes = None,
    exact: Exact = False,
    only: Only = None,
    include: Include = None,
    exclude: Exclude = None,
    onnx_style: Style = None,
    plan: PlanFile = None,
    force: Force = False,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Rewrite MODEL for fewer joules into the folder --out, with a report of every choice and refusal."""
    from .folder import check_target

    asked = options.workload_of(workload, shape)
    limit = options.budget_of(budget, joules, metric, exact)
    check_target(out, force)
    with only_results_on_stdout():
        from .rewrite import rewrite as run

        result = run(
            model,
            target=target or None,
            budget=limit if exact or budget is not None or joules is not None else None,
            calibration=calib,
            out=out,
            exact=exact,
            metric=metric or None,
            task=options.task_name(task),
            workload=asked,
            plan=plan,
            force=force,
            only=[kind.value for kind in only or ()],
            include=include or (),
            exclude=exclude or (),
            onnx_style=onnx_style,
            data_free=data_free,
            progress=progress,
        )
    deliver({**result.report, "folder": str(out)}, rewrite_text(result, out), as_json)


def explain(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", show_default=False, help="A folder that `szilard rewrite` wrote.")
    ],
    site: Annotated[str, typer.Argument(metavar="SITE", show_default=False, help="One site: every option of it.")] = "",
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Say why each choice was made and why each refusal, or everything about one SITE."""
    from .explain import explain as run
    from .explain import explain_text

    found = run(folder, site)
    deliver(found, explain_text(found), as_json)


def rewrite_text(result: Any, out: Path) -> str:
    """The table of a rewrite: joules and seconds before and after, the error against its budget, and what was done and refused."""
    from .attention_view import summary
    from .report_view import headline, report_view

    view = report_view(result.report, result.plan)
    table = [("", "before", "after", "change", "")]
    table += [(row["name"], row["before"], row["after"], row["change"], row["label"]) for row in view["totals"]]
    lines = [headline(result.report, result.plan), "", columns(table, right=(1, 2, 3)), ""]
    lines += [view["style"]] if view["style"] else []
    lines += [f"{name}: {value}" for name, value in view["error"]]
    lines += _counted(result.plan.choices)
    attentions = result.report.get("attention", ())
    lines += [f"attention: {sentence}" for sentence in summary(attentions) if any(row["heads"] for row in attentions)]
    lines += [view["unpriced"]] if view["unpriced"] else []
    lines += [f"note: {note}" for note in result.report.get("model", {}).get("notes", ())]
    lines += [f"rolled back: {entry}" for entry in view["rolled_back"]]
    if result.report.get("misses"):
        lines.append(f"refused: {len(result.report['misses'])}; `szilard explain {out}` says why")
    lines.append(f"written to {out}")
    return "\n".join(lines)


def _counted(choices: Sequence[Choice]) -> list[str]:
    """How often each action was chosen, one line for each runtime and each program."""
    places = list(dict.fromkeys(choice.place for choice in choices))
    lines = []
    for place in places:
        actions = Counter(choice.action for choice in choices if choice.place == place)
        where = f" on {place}" if len(places) > 1 else ""
        lines.append(f"choices{where}: " + ", ".join(f"{action} {count}" for action, count in sorted(actions.items())))
    return lines or ["choices: none"]
