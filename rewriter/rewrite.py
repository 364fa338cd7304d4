"""The front door: one model in, a cheaper one out, with the plan, the steps and the report that explain it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..cost_model.device import load_device
from ..cost_model.errors import InputError
from ..cost_model.onnx_style import OnnxStyle, style_named
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
from .metric import metric_function
from .optimise import DEFAULT_ERROR, Optimised, Request, optimise
from .programs import Part, check_plan, programs_of
from .refusals import check_data_free, check_kinds, check_patterns, patterns_of
from .report_programs import whole_report
from .rewritten import Rewritten, check_joules, joules_after, of_program, part_of_plan, untouched
from .runtime_onnx import OnnxModule
from .score import Score
from .score_file import default_folder
from .site_groups import site_groups
from .solve import require_joules
from .standard_onnx import with_foreign_noted
from .whole import measured_seconds, take_back_if_dearer
from .workload import workload_for

Runtimes = Sequence[tuple[Program, Backend]]


@dataclass(frozen=True, eq=False)
class Result:
    """What a rewrite gives back. `module` runs: a torch.fx.GraphModule for a PyTorch input, for an ONNX input a function from a dict of
    arrays to a dict of arrays. `modules` has one for each program: "", or "prefill" and "decode", of which `module` is the first.
    `report` is the content of report.json; `before` and `after` are joules per call of the workload."""

    module: Any
    folder: Path | None
    plan: Plan
    steps: tuple[Step, ...]
    report: Mapping[str, Any]
    before: float
    after: float
    measured: Mapping[str, Any]
    optimised: tuple[Optimised, ...]
    modules: Mapping[str, Any] = field(default_factory=dict)


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
    include: Collection[str] = (),
    exclude: Collection[str] = (),
    onnx_style: str | None = None,
    data_free: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Result:
    """Rewrite `model` so that it does the same work for fewer joules.

    `model`: a module, an ExportedProgram, an ONNX model, or a path or spec as on the command line (`load`). `sample`: example
    inputs (a tuple or a dict), which a module needs. `target`: a device profile's name or file ("cpu"). `budget`: the largest relative
    squared error of the outputs (0.02), or with a `metric` its largest absolute drop (the predicted error then stays within 0.02 too), or
    a `Budget`. `calibration`: see `read_calibration`; without it only exact rewrites are made. `data_free`: those too whose error the
    weights tell, checked on the sample inputs; data and metric of a task are left out. `plan`: a plan whose choices are replayed; it also
    gives the target, the budget, the workload, `include` and `exclude` where these are not given. `only`: kinds of sites that alone may
    change (`sites.Kind`), none for all; `include` and `exclude`: shell patterns of the names of sites that alone may change, and that may
    not. `onnx_style`: the operators that an .onnx file is written in (`OnnxStyle`), "runtime", or those of the plan. Raises InputError for
    what cannot be used and BudgetError for what cannot be met.
    """
    kinds = check_kinds(only)
    check_data_free(data_free, calibration, exact)
    if out is not None:
        check_target(out, force)
    replayed = _plan(plan)
    included = patterns_of(include) or (replayed.include if replayed else ())
    excluded = patterns_of(exclude) or (replayed.exclude if replayed else ())
    style = _style(onnx_style, replayed)
    device = load_device(target or (replayed.target if replayed else "cpu"))
    programs = programs_of(model, sample, task, workload, replayed)
    check_plan(replayed, programs.parts)
    source = programs.parts[0].loaded
    score = metric_function(metric) or (None if data_free else source.metric)
    wanted = _budget(budget if budget is not None or replayed is None else replayed.budget, exact)
    if score is not None:
        name = metric if isinstance(metric, str) else getattr(metric, "__name__", "metric")
        wanted = replace(wanted, metric=name if metric is not None else source.metric_name)
    given = source.calibration if calibration is None else calibration
    data = None if data_free else read_calibration(given, source.program)
    check_joules(wanted, programs.parts)
    running = [(part, *_runtimes(part.loaded.program, style, _said(part, progress))) for part in programs.parts]
    if included or excluded:
        names = [
            group
            for part, runtimes, _ in running
            if part.workload is not None
            for program, backend in runtimes
            for group in site_groups(program, backend, part.workload)[2]
        ]
        check_patterns(names, included, excluded)
    done = []
    for part, runtimes, refused in running:
        request = Request(
            device=device,
            workload=part.workload or workload_for(part.loaded.program),
            budget=wanted,
            calibration=part.handover.calibration(data) if part.handover else data,
            exact=exact,
            table=TimeTable() if device.kind == "cpu" else None,
            metric=part.handover.metric(score) if part.handover and score else score,
            plan=part_of_plan(replayed, part.name),
            only=kinds,
            include=included,
            exclude=excluded,
            scores=default_folder(),
            onnx_style=style,
            data_free=data_free and wanted.error > 0,
        )
        done.append(_rewritten(part, runtimes, refused, request, progress))
    for runtime in dict.fromkeys(each.backend.runtime for part in done for each in part.done):
        require_joules(
            sum(joules_after(each) for part in done for each in part.done if each.backend.runtime == runtime), wanted
        )
    whole = Plan(
        target=device.name,
        workload=programs.workload,
        budget=wanted,
        choices=tuple(choice for part in done for each in part.done for choice in each.choices),
        misses=tuple(dict.fromkeys(miss for part in done for miss in part.misses)),
        include=included,
        exclude=excluded,
        onnx_style=style,
    )
    report = whole_report(whole, done, programs.notes, progress)
    folder = None
    if out is not None:
        progress(f"writing {out}")
        with new_folder(out, force) as partial:
            emit(partial, [(part.part.name, part.done) for part in done], whole, report, original_file(model))
        folder = Path(out)
    modules = {part.part.name: _module(part.done[0].program) for part in done}
    return Result(
        module=modules[done[0].part.name],
        modules=modules,
        folder=folder,
        plan=whole,
        steps=tuple(step for part in done for each in part.done for step in each.steps),
        report=report,
        before=report["joules"]["before"],
        after=report["joules"]["after"],
        measured=done[0].measured if len(done) == 1 else {part.part.name: part.measured for part in done},
        optimised=tuple(each for part in done for each in part.done),
    )


def _rewritten(
    part: Part, runtimes: Runtimes, refused: Sequence[Miss], request: Request, progress: Callable[[str], None]
) -> Rewritten:
    """One program on each of its runtimes, timed before and after where that can be; as it is where no phase runs it."""
    said = _said(part, progress)
    if part.workload is None:
        return Rewritten(part, request, tuple(untouched(each, backend) for each, backend in runtimes), {}, tuple(refused))
    done: tuple[Optimised, ...] = ()
    estimates: Mapping[tuple[str, str], Score] = {}
    if not request.exact and request.budget.error > 0 and part.loaded.program.runtime == "torch":
        from .score_estimates import estimated_scores

        estimates = estimated_scores(part.loaded.program, [backend for _, backend in runtimes], request, said)
    # onnxruntime first: what an option does to the outputs belongs to the model, so that the other runtime need not measure it again.
    for each, backend in reversed(runtimes):
        known = {**estimates, **{key: score for earlier in done for key, score in earlier.scores.items()}}
        done = (optimise(each, backend, replace(request, known_scores=known), said), *done)
    measured: dict[str, Any] = {}
    if request.table is not None and not any(phase.context for phase in request.workload.phases):
        said("timing before and after")
        measured = {each.backend.runtime: measured_seconds(each, request) for each in done}
        done = tuple(take_back_if_dearer(each, measured[each.backend.runtime], request) for each in done)
    return Rewritten(part, request, tuple(of_program(each, part.name) for each in done), measured, tuple(refused))


def _said(part: Part, progress: Callable[[str], None]) -> Callable[[str], None]:
    return (lambda sentence: progress(f"{part.name}: {sentence}")) if part.name else progress


def _module(program: Program) -> Any:
    return program.graph if program.runtime == "torch" else OnnxModule(program.graph)


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


def _style(name: str | None, plan: Plan | None) -> OnnxStyle:
    """The style that is asked for, else that of the plan. InputError where both are given and differ."""
    if name is None:
        return plan.onnx_style if plan else OnnxStyle.runtime
    wanted = style_named(name)
    if plan is not None and plan.onnx_style != wanted:
        raise InputError(
            f"The plan was made with --onnx-style {plan.onnx_style}, and --onnx-style {wanted} is asked for: leave the option out to take "
            "the plan's own, or make a new plan."
        )
    return wanted


def _runtimes(program: Program, style: OnnxStyle, progress: Callable[[str], None]) -> tuple[Runtimes, list[Miss]]:
    """The programs to rewrite: ONNX in, ONNX out; a PyTorch program on its own runtime and, exported as float, on onnxruntime. Where it
    cannot be exported or onnxruntime does not run the export (it has no bfloat16 arithmetic), PyTorch alone, and the Miss that says so."""
    if program.runtime == "onnxruntime":
        noted = with_foreign_noted(program) if style is OnnxStyle.qdq else program
        return [(noted, OnnxBackend(program.sample, style))], []
    from .backend_torch import TorchBackend

    progress("exporting to ONNX")
    try:
        exported = export_onnx(program)
    except InputError as fault:
        reason = f"Only PyTorch was rewritten, and no .onnx file is written: {str(fault).rstrip('.')}."
        return [(program, TorchBackend(program))], [Miss(program.source, "export", reason)]
    return [(program, TorchBackend(program)), (exported, OnnxBackend(program.sample, style))], []
