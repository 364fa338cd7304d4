"""What a report shows, worked out once for every format: the report dict and the plan as texts with units."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..cost_model.plan import Choice, Option, Plan
from .quantity import change, number, quantity

_LISTED_OPS = 5


def report_view(report: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """What the templates print: every number is a text with its unit already, so that they hold no arithmetic."""
    changed = [choice for choice in plan.choices if choice.action != "leave"]
    scale = max([option.joules for choice in plan.choices for option in (choice.before, choice.after)], default=0.0)
    errors = {entry.get("site"): entry.get("error_predicted") for entry in report.get("choices", ())}
    return {
        "title": _model_name(report),
        "target": report.get("target", plan.target),
        "headline": headline(report, plan),
        "facts": _facts(report),
        "totals": _totals(report),
        "bars": _bars(report),
        "terms": _terms(report),
        "floors": _floors(report),
        "error": _error(report),
        "phases": [(phase.name, _shapes(phase.shapes), f"{phase.weight * 100:.3g} %") for phase in plan.workload.phases],
        "changed": [_choice(choice, scale, errors) for choice in changed],
        "left": [_choice(choice, scale, errors) for choice in plan.choices if choice.action == "leave"],
        "misses": _misses(report),
        "rolled_back": [_rolled_back(entry) for entry in report.get("rolled_back", ())],
        "steps": [_step(step) for step in report.get("steps", ())],
    }


def headline(report: Mapping[str, Any], plan: Plan) -> str:
    """The result in one sentence, with the label of the number in it."""
    joules = report.get("joules", {})
    before, after, label = joules.get("before"), joules.get("after"), joules.get("label", "modelled")
    changed = Counter(choice.runtime for choice in plan.choices if choice.action != "leave")
    if not changed:
        return f"Nothing was changed: no rewrite pays within the budget; the model takes {quantity(before, 'J')} per call ({label})."
    places = " and ".join(f"{count} place{'s' if count > 1 else ''} on {runtime}" for runtime, count in changed.items())
    runtimes = list(report.get("runtimes") or ())
    where = f" on {runtimes[-1]}" if len(runtimes) > 1 else ""
    energy = f"{quantity(after, 'J')} per call instead of {quantity(before, 'J')}{where} ({change(before, after)}, {label})"
    return f"Rewritten at {places}: {energy}."


def _model_name(report: Mapping[str, Any]) -> str:
    model = report.get("model", {})
    return str(next((model[key] for key in ("name", "source", "path") if model.get(key)), "model"))


def _facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    model = {key: value for key, value in report.get("model", {}).items() if isinstance(value, str | int | float)}
    sites = ", ".join(f"{count} {kind}" for kind, count in report.get("sites", {}).items() if count)
    return [(key.replace("_", " "), str(value)) for key, value in model.items()] + [("sites", sites or "none")]


def _totals(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """Rows of joules and seconds, for each runtime where there are several."""
    floor = quantity(report.get("floors", {}).get("landauer_joules"), "J") + " (Landauer)"
    runtimes = report.get("runtimes") or {}
    named = runtimes.items() if len(runtimes) > 1 else [("", report)]
    rows = []
    for runtime, part in named:
        where = f", {runtime}" if runtime else ""
        joules, seconds = part.get("joules", {}), part.get("seconds", {})
        rows.append(_total(f"Joules per call{where}", joules, "J", floor))
        rows.append(_total(f"Seconds per call{where}", seconds, "s", ""))
        if "predicted" in seconds:
            predicted = {**seconds["predicted"], "label": "modelled"}
            rows.append(_total(f"Seconds per call{where}, as predicted", predicted, "s", ""))
    return rows


def _total(name: str, pair: Mapping[str, Any], unit: str, floor: str) -> dict[str, str]:
    before, after = pair.get("before"), pair.get("after")
    return {
        "name": name,
        "before": quantity(before, unit),
        "after": quantity(after, unit),
        "change": change(before, after),
        "label": str(pair.get("label", "modelled")),
        "floor": floor,
    }


def _bars(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Joules by term as stacked bars on one scale; [] where the report has no terms."""
    terms = report.get("joules", {}).get("terms")
    if not terms:
        return []
    widest = max(sum(side.values()) for side in terms.values()) or 1.0
    names = list(dict.fromkeys(name for side in terms.values() for name in side))
    return [
        {
            "name": side,
            "total": quantity(sum(terms[side].values()), "J"),
            "parts": [
                {
                    "term": name,
                    "color": index % 6,
                    "width": f"{100 * terms[side].get(name, 0.0) / widest:.2f}",
                    "text": quantity(terms[side].get(name, 0.0), "J"),
                }
                for index, name in enumerate(names)
            ],
        }
        for side in ("before", "after")
        if side in terms
    ]


def _terms(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    terms = report.get("joules", {}).get("terms") or {}
    before, after = terms.get("before", {}), terms.get("after", {})
    return [(name, quantity(before.get(name, 0.0), "J"), quantity(after.get(name, 0.0), "J")) for name in {**before, **after}]


def _floors(report: Mapping[str, Any]) -> str:
    """The floors, and why joules were not measured, in sentences."""
    floors = report.get("floors", {})
    landauer, moved = quantity(floors.get("landauer_joules"), "J"), quantity(floors.get("io_bytes"), "B")
    missing = report.get("joules", {}).get("unavailable")
    why = f" Joules were not measured: {missing}" if missing else ""
    floor = f"No machine can do this work below {landauer} (Landauer) or by moving fewer than {moved}"
    return f"{floor}; floors never decide anything here.{why}"


def _error(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    error = report.get("error", {})
    rows = [("budget", number(error.get("budget"))), ("measured error", number(error.get("measured")))]
    if error.get("metric"):
        pair = f"{number(error.get('metric_before'), 4)} before, {number(error.get('metric_after'), 4)} after"
        rows.append((f"metric {error['metric']}", pair))
    if "held_out" in error:
        rows.append(
            ("data", "held back from scoring" if error["held_out"] else "not held back: fewer than two calibration samples")
        )
    return rows


def _shapes(shapes: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{name} {'x'.join(map(str, shape)) or 'scalar'}" for name, shape in shapes.items())


def _choice(choice: Choice, scale: float, errors: Mapping[Any, float | None]) -> dict[str, Any]:
    before, after = choice.before, choice.after
    return {
        "site": choice.site,
        "kind": choice.kind,
        "action": choice.action,
        "runtime": choice.runtime,
        "locked": choice.locked,
        "members": [site for site in choice.sites if site != choice.site],
        "before": quantity(before.joules, "J"),
        "after": quantity(after.joules, "J"),
        "change": change(before.joules, after.joules),
        "width_before": f"{100 * before.joules / scale:.2f}" if scale else "0",
        "width_after": f"{100 * after.joules / scale:.2f}" if scale else "0",
        "error": number(errors.get(choice.site, after.error)),
        "reason": choice.reason,
        "options": [_option(option, choice) for option in choice.options],
    }


def _option(option: Option, choice: Choice) -> dict[str, Any]:
    low, high = option.saving
    possible = math.isfinite(option.joules)
    return {
        "action": option.action,
        "taken": option.action == choice.action,
        "joules": quantity(option.joules, "J") if possible else "",
        "seconds": quantity(option.seconds, "s") if possible else "",
        "label": option.label,
        "saving": f"{quantity(low, 'J')} to {quantity(high, 'J')}" if possible and option.action != "leave" else "",
        "error": number(option.error) if possible else "",
        "reason": option.reason,
    }


def _misses(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row for each sentence: a large model refuses the same thing at many ops."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for miss in report.get("misses", ()):
        grouped.setdefault((miss["kind"], miss["reason"]), []).append(miss["op"])
    return [
        {
            "kind": kind,
            "reason": reason,
            "ops": ", ".join(ops[:_LISTED_OPS]) + (f" and {len(ops) - _LISTED_OPS} more" if len(ops) > _LISTED_OPS else ""),
        }
        for (kind, reason), ops in grouped.items()
    ]


def _rolled_back(entry: Any) -> str:
    if not isinstance(entry, Mapping):
        return str(entry)
    action = f" ({entry['action']})" if entry.get("action") else ""
    reason = f": {entry['reason']}" if entry.get("reason") else ""
    return f"{entry.get('site', 'a choice')}{action}{reason}"


def _step(step: Mapping[str, Any]) -> dict[str, str]:
    return {
        "name": str(step.get("pass", "")),
        "changed": str(step.get("changed", "")),
        "nodes": f"{step.get('nodes_before', '?')} → {step.get('nodes_after', '?')}",
        "error": number(step.get("max_error")),
        "seconds": quantity(step.get("seconds"), "s"),
    }
