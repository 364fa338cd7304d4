"""The front door: one model in, a cheaper one out, with the plan, the steps and the report that explain it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..cost_model.device import load_device
from ..cost_model.errors import InputError
from ..cost_model.plan import Budget, Plan, Step
from ..cost_model.program import Program
from ..cost_model.sites import Miss
from ..cost_model.timing import TimeTable
from .backend import Backend
from .backend_onnx import OnnxBackend
from .calibration_data import read_calibration
from .emit import emit, original_file
from .explain import read_plan
from .export_onnx import export_onnx
from .folder import check_target, new_folder
from .load import load
from .metric import metric_function
from .optimise import DEFAULT_ERROR, Optimised, Request, optimise
from .refusals import check_kinds
from .report_data import build_report
from .runtime_onnx import OnnxModule
from .solve import require_joules
from .whole import measured_seconds, take_back_if_dearer
from .workload import longest_length, sample_shapes, workload_for

NOT_TIMED = (
    "The whole model was not timed before and after: it was traced without a cache, so that its phase {} cannot run here."
)


@dataclass(frozen=True, eq=False)
class Result:
    """What a rewrite gives back. `module` runs: a torch.fx.GraphModule for a PyTorch input, for an ONNX input a function from a dict of
    arrays to a dict of arrays. `report` is the content of report.json; `before` and `after` are joules per call of the workload."""

    module: Any
    folder: Path | None
    plan: Plan
    steps: tuple[Step, ...]
    report: Mapping[str, Any]
    before: float
    after: float
    measured: Mapping[str, Any]
    optimised: tuple[Optimised, ...]


def rewrite(
    model: Any,
    sample: Any = None,
    *,
    target: str | Path | None = None,
    budget: float | Budget | None = None,
    calibration: Any = None,
    out: str | Path | None = None,
    exact: bool = False,
    metric: Any = None,
    task: str | None = None,
    workload: Any = None,
    plan: Plan | Mapping[str, Any] | str | Path | None = None,
    force: bool = False,
    only: Collection[str] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> Result:
    """Rewrite `model` so that it does the same work for fewer joules.

    `model`: a module, an ExportedProgram, an ONNX model, or a path or spec as on the command line (`load`). `sample`: example
    inputs (a tuple or a dict), which a module needs. `target`: a device profile's name or file ("cpu"). `budget`: the largest relative
    squared error of the outputs (0.02), or with a `metric` its largest absolute drop (the predicted error then stays within 0.02 too), or
    a `Budget`. `calibration`: see `read_calibration`; without it only exact rewrites are made. `plan`: a plan whose choices are
    replayed; it also gives the target, the budget and the workload where these are not given. `only`: kinds of sites that alone may
    change ("attention", "linear", "conv", "region"), none for all. Raises InputError for what
    cannot be used and BudgetError for what cannot be met.
    """
    kinds = check_kinds(only)
    if out is not None:
        check_target(out, force)
    replayed = _plan(plan)
    device = load_device(target or (replayed.target if replayed else "cpu"))
    loaded = load(model, sample=sample, task=task, shapes=sample_shapes(workload), length=longest_length(workload))
    program = loaded.program
    score = metric_function(metric) or loaded.metric
    wanted = _budget(budget if budget is not None or replayed is None else replayed.budget, exact)
    if score is not None:
        name = metric if isinstance(metric, str) else getattr(metric, "__name__", "metric")
        wanted = replace(wanted, metric=name if metric is not None else loaded.metric_name)
    data = read_calibration(loaded.calibration if calibration is None else calibration, program)
    request = Request(
        device=device,
        workload=workload_for(program, workload or loaded.workload or (replayed.workload if replayed else None)),
        budget=wanted,
        calibration=data,
        exact=exact,
        table=TimeTable() if device.kind == "cpu" else None,
        metric=score,
        plan=replayed,
        only=kinds,
    )
    done: tuple[Optimised, ...] = ()
    # onnxruntime first: what an option does to the outputs belongs to the model, so that the other runtime need not measure it again.
    runtimes, refused = _runtimes(program, progress)
    for each, backend in reversed(runtimes):
        known = {key: score for earlier in done for key, score in earlier.scores.items()}
        done = (optimise(each, backend, replace(request, known_scores=known), progress), *done)
    measured: dict[str, Any] = {}
    decoding = [phase.name for phase in request.workload.phases if phase.context]
    if request.table is not None and not decoding:
        progress("timing before and after")
        measured = {each.backend.runtime: measured_seconds(each, request) for each in done}
        done = tuple(take_back_if_dearer(each, measured[each.backend.runtime], request) for each in done)
    for rewritten in done:
        require_joules(rewritten.elsewhere[0] + sum(choice.after.joules for choice in rewritten.choices), wanted)
    whole = Plan(
        target=device.name,
        workload=request.workload,
        budget=wanted,
        choices=tuple(choice for each in done for choice in each.choices),
        misses=tuple(dict.fromkeys([*refused, *(miss for each in done for miss in each.misses)])),
    )
    untimed = [NOT_TIMED.format(", ".join(decoding))] if request.table is not None and decoding else []
    notes = [
        *untimed,
        *loaded.notes,
        *(note for each in done for note in each.original.notes),
        *(miss.reason for miss in refused),
    ]
    report = build_report(program, whole, done, request, measured, tuple(dict.fromkeys(notes)))
    folder = None
    if out is not None:
        progress(f"writing {out}")
        with new_folder(out, force) as partial:
            emit(partial, done, whole, report, original_file(model))
        folder = Path(out)
    first = done[0]
    return Result(
        module=first.program.graph if first.program.runtime == "torch" else OnnxModule(first.program.graph),
        folder=folder,
        plan=whole,
        steps=tuple(step for each in done for step in each.steps),
        report=report,
        before=report["joules"]["before"],
        after=report["joules"]["after"],
        measured=measured,
        optimised=done,
    )


def _budget(budget: float | Budget | None, exact: bool) -> Budget:
    wanted = budget if isinstance(budget, Budget) else Budget(error=DEFAULT_ERROR if budget is None else float(budget))
    if not wanted.error >= 0 or (wanted.joules is not None and not wanted.joules > 0):
        raise InputError(f"The budget must not be negative (error {wanted.error}, joules {wanted.joules}).")
    return replace(wanted, error=0.0) if exact else wanted


def _plan(source: Plan | Mapping[str, Any] | str | Path | None) -> Plan | None:
    """A plan from a Plan, its JSON as a mapping, or the path of a plan.json or of the folder that holds it."""
    if source is None or isinstance(source, Plan):
        return source
    if isinstance(source, (str, Path)):
        path = Path(source)
        return read_plan(path / "plan.json" if path.is_dir() else path)
    return Plan.from_json(source)


def _runtimes(program: Program, progress: Callable[[str], None]) -> tuple[list[tuple[Program, Backend]], list[Miss]]:
    """The programs to rewrite: ONNX in, ONNX out; a PyTorch program on its own runtime and, exported as float, on onnxruntime. Where it
    cannot be exported or onnxruntime does not run the export (it has no bfloat16 arithmetic), PyTorch alone, and the Miss that says so."""
    if program.runtime == "onnxruntime":
        return [(program, OnnxBackend(program.sample))], []
    from .backend_torch import TorchBackend

    progress("exporting to ONNX")
    try:
        exported = export_onnx(program)
    except InputError as fault:
        reason = f"Only PyTorch was rewritten, and no model.onnx is written: {str(fault).rstrip('.')}."
        return [(program, TorchBackend(program))], [Miss(program.source, "export", reason)]
    return [(program, TorchBackend(program)), (exported, OnnxBackend(program.sample))], []
