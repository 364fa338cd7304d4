"""What a report shows, worked out once for every format: the report dict and the plan as texts with units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..cost_model.onnx_style import OnnxStyle
from ..cost_model.plan import Plan
from ..cost_model.provenance import provenance_clause
from .quantity import change, number, quantity
from .report_choices import choice_groups

_LISTED = 5
_LISTED_NAMES = 8


def report_view(report: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """What the templates print: every number is a text with its unit already, so that they hold no arithmetic."""
    return {
        "title": report.get("model", {}).get("source") or "model",
        "target": report.get("target", plan.target),
        "style": style_sentence(report),
        "headline": headline(report, plan),
        "facts": _facts(report),
        "totals": _totals(report),
        "unpriced": unpriced_sentence(report.get("floors", {}).get("unpriced", ())),
        "bars": _bars(report),
        "terms": _terms(report),
        "shipped": _shipped(report),
        "floors": _floors(report),
        "error": _error(report),
        "phases": [(phase.name, _shapes(phase.shapes), f"{phase.weight * 100:.3g} %") for phase in plan.workload.phases],
        "choices": choice_groups(plan),
        "misses": _misses(report),
        "rolled_back": list(report.get("rolled_back", ())),
        "steps": [_step(step) for step in report.get("steps", ())],
    }


def style_sentence(report: Mapping[str, Any]) -> str:
    """That an .onnx file keeps to standard operators, "" where it may have those of onnxruntime."""
    if report.get("onnx_style") != OnnxStyle.qdq:
        return ""
    return "ONNX style: qdq, rewrites are written in standard ONNX operators alone."


def headline(report: Mapping[str, Any], plan: Plan) -> str:
    """The result in one sentence, with the label of the number in it."""
    joules, least = report.get("joules", {}), _least(report)
    label = joules.get("label", "modelled")
    before, after = (least + quantity(joules.get(side), "J") for side in ("before", "after"))
    changed = Counter(choice.place for choice in plan.choices if choice.action != "leave")
    if not changed:
        return f"Nothing was changed: no rewrite pays within the budget; the model takes {before} per call ({label})."
    places = " and ".join(f"{count} place{'s' if count > 1 else ''} on {runtime}" for runtime, count in changed.items())
    percent = change(joules.get("before"), joules.get("after"))
    return f"Rewritten at {places}: {after} per call instead of {before}{_shipped(report)} ({percent}, {label})."


def few(names: Sequence[str], shown: int = _LISTED) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def unpriced_sentence(names: Sequence[str], shown: int = _LISTED) -> str:
    """Why totals say "at least"; "" where every op has a price."""
    return f'Without a price, so totals say "at least": {few(names, shown)}.' if names else ""


def _least(report: Mapping[str, Any]) -> str:
    return "at least " if report.get("floors", {}).get("at_least") else ""


def _shipped(report: Mapping[str, Any]) -> str:
    """Which of several runtimes the totals are of."""
    runtimes = list(report.get("runtimes") or ())
    return f" on {runtimes[-1]}" if len(runtimes) > 1 else ""


def _parts(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """What tells a row's runtime apart, and the part of the report about it: the whole report where there is but one."""
    runtimes = report.get("runtimes") or {}
    return [(f", {name}", part) for name, part in runtimes.items()] if len(runtimes) > 1 else [("", report)]


def _programs(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The programs of a model that has several, by name, of those that the workload runs."""
    return [(name, part) for name, part in (report.get("programs") or {}).items() if "joules" in part]


def _facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    model = report.get("model", {})
    sites = ", ".join(f"{count} {kind}" for kind, count in report.get("sites", {}).items() if count)
    names = [(key, few(model[key], _LISTED_NAMES)) for key in ("inputs", "outputs") if model.get(key)]
    return [*names, ("sites", sites or "none"), *(("note", note) for note in model.get("notes", ()))]


def _totals(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """Rows of joules and seconds, for each runtime where there are several."""
    floor = quantity(report.get("floors", {}).get("landauer_joules"), "J") + " (Landauer)"
    least, rows = _least(report), []
    for where, part in _parts(report):
        joules, seconds = part.get("joules", {}), part.get("seconds", {})
        rows.append(_total(f"Joules per call{where}", joules, "J", floor, least))
        rows.append(_total(f"Seconds per call{where}", seconds, "s", "", least))
        if "predicted" in seconds:
            predicted = {**seconds["predicted"], "label": "modelled"}
            rows.append(_total(f"Seconds per call{where}, as predicted", predicted, "s", "", least))
    for name, part in _programs(report):
        rows.append(_total(f"Joules per call{_shipped(report)}, of which {name}", part["joules"], "J", "", least))
        rows.append(_total(f"Seconds per call{_shipped(report)}, of which {name}", part["seconds"], "s", "", least))
    return rows


def _total(name: str, pair: Mapping[str, Any], unit: str, floor: str, least: str) -> dict[str, str]:
    before, after, label = pair.get("before"), pair.get("after"), str(pair.get("label", "modelled"))
    # A clock and a counter see every op, priced or not.
    prefix = "" if label == "measured" else least
    return {
        "name": name,
        "before": prefix + quantity(before, unit),
        "after": prefix + quantity(after, unit),
        "change": change(before, after),
        "label": label,
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
    """The floors, on what modelled joules rest, and why joules were not measured, in sentences."""
    floors = report.get("floors", {})
    landauer, moved = quantity(floors.get("landauer_joules"), "J"), quantity(floors.get("io_bytes"), "B")
    missing = report.get("joules", {}).get("unavailable")
    why = f" Joules were not measured: {missing}" if missing else ""
    rest = provenance_clause(report.get("joules", {}).get("provenance") or {})
    if rest:
        why += f" Joules before the rewrite are modelled; {rest}."
    stored, cores = quantity(floors.get("landauer_stored_joules"), "J"), quantity(floors.get("core_bytes"), "B")
    heat = f"{landauer} (Landauer; {stored} where every op stores its results)"
    floor = (
        f"No machine can do this work below {heat} or, from a cold start, by moving fewer than {moved} from and to memory; {cores} is the "
        "least from and to its cores, where nothing is computed twice"
    )
    return f"{floor}. Floors are modelled and never decide anything here.{_token(floors.get('token'))}{why}"


def _token(token: Mapping[str, float] | None) -> str:
    """How far the joules of a token are above the floor of its bits, where its perplexity was measured."""
    if token is None:
        return ""
    bits = f"A token of perplexity {number(token['perplexity'])} (measured) has a floor of {quantity(token['landauer_joules'], 'J')}"
    return f" {bits}, and costs {quantity(token['joules'], 'J')} (modelled), {number(token['gap'])} times that."


def _error(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The budget, and what each runtime made of it. With a metric the budget limits its drop, not the error of the outputs."""
    error, joules = report.get("error", {}), report.get("budget", {}).get("joules")
    metric, limit = error.get("metric"), number(error.get("budget"))
    if joules is not None:
        rows = [("budget", f"{quantity(joules, 'J')} per call; the error is not limited")]
    else:
        rows = [("budget", f"{metric} may drop by {limit}" if metric else f"{limit} relative squared error")]
    programs = [(f", {name}{where}", each) for name, part in _programs(report) for where, each in _parts(part)]
    for where, part in programs or _parts(report):
        found = part.get("error", {})
        if metric:
            rows.append((f"{metric}{where}", _drop(found.get("metric_before"), found.get("metric_after"))))
        if found.get("perplexity_before"):
            rows.append((f"perplexity{where}", _rise(found["perplexity_before"], found["perplexity_after"])))
        aside = " (not limited)" if metric else ""
        rows.append((f"measured error{where}", f"{number(found.get('measured'))} relative squared error{aside}"))
    if "held_out" in error:
        rows.append(("data", _data(error)))
    if report.get("gap") is not None:
        rows.append(("solver's gap", f"the plan is within {100 * report['gap']:.2g} % of the best one"))
    return rows


def _data(error: Mapping[str, Any]) -> str:
    if error["held_out"]:
        return "held back from scoring"
    if error.get("data_free"):
        return "none: choices go by the weights alone, and the measured error is that on the sample inputs"
    if not error.get("calibrated", True):
        return "none: only exact rewrites, and the measured error is that on the sample inputs"
    return "not held back: fewer than two calibration samples"


def _drop(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return "not measured"
    return f"{number(before, 4)} before, {number(after, 4)} after, drop {number(before - after)}"


def _rise(before: float, after: float) -> str:
    return f"{number(before, 4)} before, {number(after, 4)} after, {100 * (after / before - 1):+.2f} % (measured)"


def _shapes(shapes: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{name} {'x'.join(map(str, shape)) or 'scalar'}" for name, shape in shapes.items())


def _misses(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row for each sentence: a large model refuses the same thing at many ops."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for miss in report.get("misses", ()):
        grouped.setdefault((miss["kind"], miss["reason"]), []).append(miss["op"])
    return [{"kind": kind, "reason": reason, "ops": few(ops)} for (kind, reason), ops in grouped.items()]


def _step(step: Mapping[str, Any]) -> dict[str, str]:
    return {
        "name": str(step.get("pass", "")),
        "runtime": str(step.get("runtime", "")),
        "changed": str(step.get("changed", "")),
        "nodes": f"{step.get('nodes_before', '?')} → {step.get('nodes_after', '?')}",
        "error": number(step.get("max_error")),
        "seconds": quantity(step.get("seconds"), "s"),
    }
