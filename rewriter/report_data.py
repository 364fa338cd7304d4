"""The content of report.json: one dict, built from what was planned, checked and timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from math import exp, prod
from typing import Any

from ..cost_model.cpu_features import products_saturate
from ..cost_model.landauer import landauer_joules
from ..cost_model.landauer_learning import inference_bits, inference_gap
from ..cost_model.meter import open_meter
from ..cost_model.plan import Plan
from ..cost_model.program import Program
from ..cost_model.provenance import provenance_shares
from ..kernels.quantized_linear.formats import INTEGER_INPUTS
from ..models.tasks import TASKS
from .attention_report import attention_report
from .optimise import Optimised, Request
from .structure_report import structure_report
from .workload import described

FORMAT = 1
LIKELIHOOD = TASKS["causal-lm"][2]
_LARGEST_NATS = 700.0
EIGHT_BITS = (
    "model.onnx multiplies 8-bit codes as processors with VNNI (or ARM) do; on an x86 processor without it sums may saturate, so "
    "rewrite it there, where weights keep to 7 bits."
)
SEVEN_BITS = "Integer weights keep to 7 bits, because this processor has no VNNI."
UNVERIFIED = "model.onnx is unverified on CUDA: it was checked on onnxruntime's CPU provider, and no run on its CUDA provider is recorded."


def build_report(
    program: Program,
    plan: Plan,
    done: Sequence[Optimised],
    request: Request,
    measured: Mapping[str, Any],
    notes: Sequence[str],
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """The contract of report.json. Totals are those of onnxruntime, whose file ships (of PyTorch where there is no such file); every
    runtime has its own under "runtimes"."""
    shipped = done[-1]
    totals = {each.backend.runtime: _totals(each, request, measured.get(each.backend.runtime)) for each in done}
    priced = [(phase.weight, shipped.before[phase.name].total) for phase in request.workload.phases]
    kinds = [site_kind for choice in shipped.choices for site_kind in [choice.kind] * len(choice.sites)]
    joules = dict(totals[shipped.backend.runtime]["joules"])
    joules["provenance"] = provenance_shares(priced, request.device)
    meter = open_meter(request.device.kind)
    joules["unavailable"] = (
        meter.reason
        if meter.status != "measured"
        else "A rewrite prices; `szilard measure` and `szilard compare` read the counter."
    )
    notes = [*notes, *([UNVERIFIED] if request.device.kind == "cuda" and "onnxruntime" in totals else [])]
    if any(each.changed and each.backend.runtime == "onnxruntime" and _eight_bit(each) for each in done):
        notes.append(SEVEN_BITS if products_saturate() else EIGHT_BITS)
    unchanged = [each.backend.runtime for each in done if not each.changed]
    return {
        "format": FORMAT,
        "model": {"source": program.source, "inputs": list(program.inputs), "outputs": list(program.outputs), "notes": notes},
        "target": plan.target,
        "onnx_style": plan.onnx_style,
        "workload": [described(phase) for phase in plan.workload.phases],
        "budget": {"error": plan.budget.error, "joules": plan.budget.joules, "metric": plan.budget.metric},
        "sites": {kind: kinds.count(kind) for kind in ("attention", "linear", "conv", "region", "embedding")},
        "choices": [_choice(choice) for choice in plan.choices],
        "misses": [{"op": m.op, "kind": m.kind, "reason": m.reason} for m in plan.misses],
        "joules": joules,
        "seconds": totals[shipped.backend.runtime]["seconds"],
        "floors": {
            **_floors(shipped, request),
            "at_least": any(cost.at_least for _, cost in priced),
            "unpriced": list(dict.fromkeys(name for _, cost in priced for name in cost.unpriced)),
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
        "runtimes": {
            each.backend.runtime: {
                **totals[each.backend.runtime],
                "error": _error(each, request),
                "additivity": each.additivity.to_json() if each.additivity else None,
            }
            for each in done
        },
        "unchanged": unchanged,
        "edges": [{"runtime": each.backend.runtime, **asdict(edge)} for each in done for edge in each.edges],
        "gap": max(each.gap for each in done),
        **attention_report(done, progress),
        **structure_report(done, request.device),
    }  # fmt: skip


def _totals(each: Optimised, request: Request, measured: Mapping[str, Any] | None) -> dict[str, Any]:
    elsewhere_joules, elsewhere_seconds = each.elsewhere
    predicted = {
        "before": elsewhere_seconds + sum(c.before.seconds for c in each.choices),
        "after": elsewhere_seconds + each.conversions[1] + sum(c.after.seconds for c in each.choices),
    }
    joules: dict[str, Any] = {
        "before": elsewhere_joules + sum(c.before.joules for c in each.choices),
        "after": elsewhere_joules + each.conversions[0] + sum(c.after.joules for c in each.choices),
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


def _floors(shipped: Optimised, request: Request) -> dict[str, Any]:
    """Floors of a call of the workload: "landauer_joules" of what leaves the model, "landauer_stored_joules" where every op stores its
    results [J], "io_bytes" from and to memory, "core_bytes" from and to the cores [B]; and "token", where the bits of one are known."""
    parts = [(phase.weight, shipped.floors[phase.name]) for phase in request.workload.phases]
    return {
        "landauer_joules": sum(weight * floors.landauer for weight, floors in parts),
        "landauer_stored_joules": sum(weight * floors.landauer_stored for weight, floors in parts),
        "io_bytes": sum(weight * floors.memory_bytes for weight, floors in parts),
        "core_bytes": sum(weight * floors.core_bytes for weight, floors in parts),
        "token": _token(shipped, request),
    }


def _token(shipped: Optimised, request: Request) -> dict[str, float] | None:
    """Of a language model whose likelihood was measured: the "perplexity" after the rewrite, the modelled "joules" of a token, the Landauer
    floor of its bits "landauer_joules" [J] and how many times that the joules are, "gap"."""
    tokens = sum(phase.weight * prod(phase.shapes.get("input_ids", (0,))) for phase in request.workload.phases)
    if request.budget.metric != LIKELIHOOD or shipped.metric is None or shipped.metric[1] >= 0 or not tokens:
        return None
    perplexity = _perplexity(shipped.metric[1])
    joules = (shipped.elsewhere[0] + shipped.conversions[0] + sum(choice.after.joules for choice in shipped.choices)) / tokens
    floor = landauer_joules(inference_bits(1, perplexity))
    return {"perplexity": perplexity, "joules": joules, "landauer_joules": floor, "gap": inference_gap(joules, perplexity)}


def _perplexity(likelihood: float) -> float:
    return exp(min(-likelihood, _LARGEST_NATS))


def _eight_bit(each: Optimised) -> bool:
    """Whether any choice quantises activations, whose products with weights may saturate."""
    return any(choice.action.removesuffix("_merged") in INTEGER_INPUTS for choice in each.choices)


def _error(each: Optimised, request: Request) -> dict[str, Any]:
    before, after = each.metric or (None, None)
    likely = request.budget.metric == LIKELIHOOD
    return {
        "budget": request.budget.error,
        "measured": each.error,
        "predicted_limit": each.limit,
        "metric": request.budget.metric or None,
        "metric_before": before,
        "metric_after": after,
        "perplexity_before": None if before is None or not likely else _perplexity(before),
        "perplexity_after": None if after is None or not likely else _perplexity(after),
        "calibrated": request.calibration is not None,
        "data_free": request.data_free,
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
