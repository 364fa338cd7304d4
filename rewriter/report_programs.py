"""The report of a model of several programs: the reports of its programs, added up where they add up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..cost_model.plan import Plan
from .report_data import build_report
from .rewritten import Rewritten
from .workload import described

SIDES = ("before", "after")
FILES = {"": "", "prefill": "", "decode": "_with_past"}
"""Program -> what stands behind "model" in the names of its files: the prefill is the model that a folder is known by."""

ROWS = ("choices", "misses", "steps", "attention", "spectral", "edges", "structure")
"""Lists of a report whose rows belong to one program each."""

Report = dict[str, Any]


def whole_report(
    plan: Plan, parts: Sequence[Rewritten], notes: Sequence[str], progress: Callable[[str], None] = lambda _: None
) -> Report:
    """The contract of report.json for one program, or for several of which each has its own totals and errors under "programs". All joules
    and seconds are per call of the whole workload, so that those of programs add up; "error" is that of the program which spent most of
    the budget."""
    reports = {
        each.part.name: build_report(
            each.part.loaded.program, each.plan, each.done, each.request, each.measured, each.notes, progress
        )
        for each in parts
        if each.part.workload is not None
    }
    first = parts[0].part.loaded.program
    if list(reports) == [""]:
        found = reports[""]
        return {**found, "model": {**found["model"], "notes": _joined([notes, found["model"]["notes"]])}}
    every = _on_one_runtime(list(reports.values()))
    return {
        "format": every[0]["format"],
        "model": {
            "source": first.source,
            "inputs": list(first.inputs),
            "outputs": list(first.outputs),
            "notes": _joined([notes, *(report["model"]["notes"] for report in every)]),
        },
        "target": plan.target,
        "onnx_style": plan.onnx_style,
        "workload": [described(phase) for phase in plan.workload.phases],
        "budget": {"error": plan.budget.error, "joules": plan.budget.joules, "metric": plan.budget.metric},
        "sites": {kind: sum(report["sites"][kind] for report in every) for kind in every[0]["sites"]},
        "joules": _joules(every),
        "seconds": _seconds(every),
        "floors": _floors(every),
        "error": _worst([report["error"] for report in every]),
        "rolled_back": [f"{name}: {sentence}" for name, report in reports.items() for sentence in report["rolled_back"]],
        "runtimes": _runtimes(every),
        "unchanged": [name for name in every[0]["runtimes"] if all(name in report["unchanged"] for report in every)],
        "gap": max(report["gap"] for report in every),
        **{rows: _with_program(reports, rows) for rows in ROWS},
        "programs": {each.part.name: _program(each, reports.get(each.part.name)) for each in parts},
    }


def _on_one_runtime(reports: Sequence[Report]) -> list[Report]:
    """The reports with the totals of the last runtime that all programs have: joules of two runtimes do not add up to those of a call.

    Every program has PyTorch, and of a program that could not be exported there is nothing else."""
    common = [name for name in reports[0]["runtimes"] if all(name in report["runtimes"] for report in reports)][-1]
    found = []
    for report in reports:
        part = report["runtimes"][common]
        found.append(
            {**report, "joules": {**report["joules"], **part["joules"]}, "seconds": part["seconds"], "error": part["error"]}
        )
    return found


def _with_program(reports: Mapping[str, Report], rows: str) -> list[Report]:
    return [{**row, "program": name} for name, report in reports.items() for row in report[rows]]


def _program(each: Rewritten, report: Report | None) -> Report:
    """What is of one program alone; no totals where no phase of the workload runs it."""
    program = each.part.loaded.program
    found: Report = {
        "file": f"model{FILES[each.part.name]}.{'onnx' if each.done[-1].backend.runtime == 'onnxruntime' else 'py'}",
        "inputs": list(program.inputs),
        "outputs": list(program.outputs),
    }
    if report is None:
        return {**found, "share": 0.0}
    same = ("sites", "joules", "seconds", "floors", "error", "runtimes", "unchanged", "gap")
    return {**found, "share": each.request.workload.share, **{key: report[key] for key in same}}


def _joules(reports: Sequence[Report]) -> Report:
    parts = [report["joules"] for report in reports]
    total = sum(part["before"] for part in parts) or 1.0
    provenance: dict[str, float] = {}
    for part in parts:
        for name, share in part.get("provenance", {}).items():
            provenance[name] = provenance.get(name, 0.0) + share * part["before"] / total
    return {
        **{side: sum(part[side] for part in parts) for side in SIDES},
        "label": parts[0]["label"],
        "terms": {side: _summed([part["terms"][side] for part in parts]) for side in SIDES},
        "provenance": provenance,
        "unavailable": parts[0]["unavailable"],
    }


def _seconds(reports: Sequence[Report]) -> Report:
    """Measured where all programs were; a sum of measured and modelled seconds is modelled."""
    parts = [report["seconds"] for report in reports]
    measured = all(part["label"] == "measured" for part in parts)
    chosen = parts if measured else [part.get("predicted", part) for part in parts]
    found: Report = {side: sum(part[side] for part in chosen) for side in SIDES}
    if not measured:
        return {**found, "label": "modelled"}
    predicted = _summed([part["predicted"] for part in parts])
    phases = {name: row for part in parts for name, row in part["phases"].items()}
    return {**found, "label": "measured", "predicted": predicted, "phases": phases}


def _floors(reports: Sequence[Report]) -> Report:
    parts = [report["floors"] for report in reports]
    sums = ("landauer_joules", "landauer_stored_joules", "io_bytes", "core_bytes")
    return {
        **{name: sum(part[name] for part in parts) for name in sums},
        "at_least": any(part["at_least"] for part in parts),
        "unpriced": _joined([part["unpriced"] for part in parts]),
        "token": _token(reports),
    }


def _token(reports: Sequence[Report]) -> dict[str, float] | None:
    """Of the perplexity of the program that was left the least likely; joules are those of a token of the whole workload."""
    parts = [(report["floors"]["token"], report["joules"]["after"]) for report in reports]
    known = [(token, joules) for token, joules in parts if token and token["joules"] > 0]
    if len(known) < len(parts) or not known:
        return None
    tokens = sum(joules / token["joules"] for token, joules in known)
    worst = max((token for token, _ in known), key=lambda token: token["perplexity"])
    each = sum(joules for _, joules in known) / tokens
    return {**worst, "joules": each, "gap": worst["gap"] * each / worst["joules"]}


def _worst(errors: Sequence[Report]) -> Report:
    """By the drop of the metric where there is one: a program without a drop was taken back, and is the original."""

    def spent(error: Any) -> tuple[bool, float]:
        if error["metric_before"] is None or error["metric_after"] is None:
            return False, float(error["measured"])
        return True, float(error["metric_before"] - error["metric_after"])

    return max(errors, key=spent)


def _runtimes(reports: Sequence[Report]) -> Report:
    """The totals of each runtime that every program has."""
    names = [name for name in reports[0]["runtimes"] if all(name in report["runtimes"] for report in reports)]
    found = {}
    for name in names:
        parts = [report["runtimes"][name] for report in reports]
        joules = {side: sum(part["joules"][side] for part in parts) for side in SIDES}
        terms = {side: _summed([part["joules"]["terms"][side] for part in parts]) for side in SIDES}
        found[name] = {
            "joules": {**joules, "label": parts[0]["joules"]["label"], "terms": terms},
            "seconds": _seconds(parts),
            "error": _worst([part["error"] for part in parts]),
        }
    return found


def _summed(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(part.get(name, 0.0) for part in parts) for name in dict.fromkeys(name for part in parts for name in part)}


def _joined(parts: Sequence[Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(entry for part in parts for entry in part))
