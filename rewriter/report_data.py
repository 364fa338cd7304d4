"""The content of report.json: one dict, built from what was planned, checked and timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..cost_model.meter import open_meter
from ..cost_model.plan import Plan
from ..cost_model.program import Program
from .optimise import Optimised, Request

FORMAT = 1
UNVERIFIED = "model.onnx is unverified on CUDA: it was checked on onnxruntime's CPU provider, and no run on its CUDA provider is recorded."


def build_report(
    program: Program, plan: Plan, done: Sequence[Optimised], request: Request, measured: Mapping[str, Any], notes: Sequence[str]
) -> dict[str, Any]:
    """The contract of report.json. Totals are those of onnxruntime, whose file ships; every runtime has its own under "runtimes"."""
    shipped = done[-1]
    totals = {each.backend.runtime: _totals(each, request, measured.get(each.backend.runtime)) for each in done}
    first_phase = request.workload.phases[0].name
    floor = shipped.before[first_phase].total
    kinds = [site_kind for choice in shipped.choices for site_kind in [choice.kind] * len(choice.sites)]
    meter = open_meter()
    joules = dict(totals[shipped.backend.runtime]["joules"])
    if meter.status != "measured":
        joules["unavailable"] = meter.reason
    notes = [*notes, *([UNVERIFIED] if request.device.kind == "cuda" and "onnxruntime" in totals else [])]
    unchanged = [each.backend.runtime for each in done if not each.changed]
    return {
        "format": FORMAT,
        "model": {"source": program.source, "inputs": list(program.inputs), "outputs": list(program.outputs), "notes": notes},
        "target": plan.target,
        "workload": [
            {"name": p.name, "shapes": {k: list(v) for k, v in p.shapes.items()}, "weight": p.weight} for p in plan.workload.phases
        ],
        "budget": {"error": plan.budget.error, "joules": plan.budget.joules, "metric": plan.budget.metric},
        "sites": {kind: kinds.count(kind) for kind in ("attention", "linear", "conv", "region")},
        "choices": [_choice(choice) for choice in plan.choices],
        "misses": [{"op": m.op, "kind": m.kind, "reason": m.reason} for m in plan.misses],
        "joules": joules,
        "seconds": totals[shipped.backend.runtime]["seconds"],
        "floors": {
            "landauer_joules": floor.landauer, "io_bytes": floor.io_bytes,
            "at_least": floor.at_least, "unpriced": list(floor.unpriced),
        },
        "error": _error(shipped, request),
        "steps": [
            {
                "pass": s.name, "changed": s.changed, "nodes_before": s.nodes_before, "nodes_after": s.nodes_after,
                "max_error": s.max_error, "seconds": s.seconds, "runtime": s.runtime,
            }
            for each in done for s in each.steps
        ],
        "rolled_back": [sentence for each in done for sentence in each.rolled_back],
        "runtimes": {each.backend.runtime: {**totals[each.backend.runtime], "error": _error(each, request)} for each in done},
        "unchanged": unchanged,
    }  # fmt: skip


def _totals(each: Optimised, request: Request, measured: Mapping[str, Any] | None) -> dict[str, Any]:
    elsewhere_joules, elsewhere_seconds = each.elsewhere
    predicted = {
        "before": elsewhere_seconds + sum(c.before.seconds for c in each.choices),
        "after": elsewhere_seconds + sum(c.after.seconds for c in each.choices),
    }
    joules: dict[str, Any] = {
        "before": elsewhere_joules + sum(c.before.joules for c in each.choices),
        "after": elsewhere_joules + sum(c.after.joules for c in each.choices),
        "label": "modelled",
    }
    watts = request.device.value("static")
    static = {side: watts * predicted[side] for side in ("before", "after")}
    joules["terms"] = {side: {"dynamic": joules[side] - static[side], "static": static[side]} for side in ("before", "after")}
    if not measured:
        return {"joules": joules, "seconds": {**predicted, "label": "modelled"}}
    weights = {phase.name: phase.weight for phase in request.workload.phases}
    sides = {"before": "before", "after": "after" if each.changed else "before"}
    seconds = {side: sum(weights[name] * row[key] for name, row in measured.items()) for side, key in sides.items()}
    return {"joules": joules, "seconds": {**seconds, "label": "measured", "predicted": predicted, "phases": dict(measured)}}


def _error(each: Optimised, request: Request) -> dict[str, Any]:
    before, after = each.metric or (None, None)
    return {
        "budget": request.budget.error,
        "measured": each.error,
        "metric": request.budget.metric or None,
        "metric_before": before,
        "metric_after": after,
        "held_out": bool(request.calibration and request.calibration.is_held_out),
    }


def _choice(choice: Any) -> dict[str, Any]:
    return {
        "site": choice.site,
        "kind": choice.kind,
        "runtime": choice.runtime,
        "action": choice.action,
        "sites": list(choice.sites),
        "options": [
            {
                "action": o.action,
                "joules": o.joules,
                "error": o.error,
                "seconds": o.seconds,
                "label": o.label,
                "reason": o.reason,
            }
            for o in choice.options
        ],
        "joules_before": choice.before.joules,
        "joules_after": choice.after.joules,
        "error_predicted": choice.after.error,
        "reason": choice.reason,
    }
