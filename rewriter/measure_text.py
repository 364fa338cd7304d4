"""What `szilard measure` prints: for each model and shape the whole, its classes of ops, and how far off each prediction is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..cost_model.provenance import NAMES, provenance_clause
from .command_line_output import columns, wrapped
from .quantity import change, percent, quantity
from .report_view import unpriced_sentence

_SHOWN = 12
_INTERVALS = (
    "Predicted seconds and joules are modelled, from kernels' measured laws (table) or the roofline. Intervals hold a measured value with "
    "95 %; a predicted or modelled one with 90 %, as far as coefficients go."
)


def measure_text(result: Mapping[str, Any]) -> str:
    """One block for each run, then the differences, and one sentence for each thing that a reader must know."""
    blocks = [_block(run, result["target"]) for run in result["runs"]]
    tail = [_difference(each) for each in result["differences"]]
    joules = [run["joules"] for run in result["runs"]]
    tail += [
        f"joules unavailable: {reason}" for reason in dict.fromkeys(j["unavailable"] for j in joules if "unavailable" in j)
    ]
    unpriced = list(dict.fromkeys(name for each in joules for name in each.get("unpriced", ())))
    tail += [unpriced_sentence(unpriced)] if unpriced else []
    return "\n\n".join([*blocks, "\n".join(wrapped(line) for line in [*tail, *result["notes"], _INTERVALS])])


def _block(run: Mapping[str, Any], target: str) -> str:
    lines = [f"{run['config']}, per call, predicted for {target}", _whole(run)]
    seconds, joules = run["seconds"], run["joules"]
    if seconds["predicted_from"] == "plan":
        said = f"{quantity(seconds['predicted'], 's')} and {quantity(joules['predicted'], 'J')}"
        lines.append(f"the plan of this folder says {said} (modelled)")
    elif seconds["predicted_from"] == "rewrite":
        lines.append(f"when it was rewritten it took {quantity(seconds['predicted'], 's')} (measured)")
    lines += [*_sensors(joules), *_rest(joules), _floors(run)]
    if "unavailable" in run["summary"]:
        return "\n".join([*lines, f"ops unavailable: {run['summary']['unavailable']}"])
    return "\n".join([*lines, "", _classes(run["classes"]), *_levels(run)])


def _whole(run: Mapping[str, Any]) -> str:
    seconds, joules = run["seconds"], run["joules"]
    least = "at least " if joules.get("at_least") else ""
    head = ("", "predicted", "interval", "from", "as run", "interval", "label", "error")
    promise = seconds["from_profile"]
    row = (
        "seconds",
        least + quantity(promise["value"], "s"),
        _interval(promise, "s"),
        _source(promise),
        quantity(seconds["measured"], "s"),
        _interval(seconds, "s"),
        "measured",
        change(seconds["measured"], promise["value"]),
    )
    return columns([head, row, _joules_row(joules, least)], right=(1, 4, 7))


def _joules_row(joules: Mapping[str, Any], least: str) -> tuple[str, ...]:
    promise = joules["from_profile"]
    row = ("joules", least + quantity(promise["value"], "J"), _interval(promise, "J"), promise["label"])
    if joules["measured"] is None:
        modelled = {"low": joules["modelled_low"], "high": joules["modelled_high"]}
        return (*row, least + quantity(joules["modelled"], "J"), _interval(modelled, "J"), "modelled", "")
    error = change(joules["measured"], promise["value"])
    return (*row, quantity(joules["measured"], "J"), _interval(joules, "J"), joules["label"], error)


def _source(promise: Mapping[str, Any]) -> str:
    """How the seconds were had: "table 97 %" where the rest is the roofline's."""
    share = promise.get("table_share", 0.0)
    return f"table {percent(share)}" if promise["label"] == "roofline" and share > 0 else str(promise["label"])


def _interval(ends: Mapping[str, Any], unit: str) -> str:
    return f"{quantity(ends['low'], unit)} to {quantity(ends['high'], unit)}"


def _classes(rows: Sequence[Mapping[str, Any]]) -> str:
    """The longest classes, the others in one row; joules are never measured for a class: a counter sees whole calls."""
    head = ("op class", "ops", "predicted", "from", "measured", "share", "error", "modelled joules", "modelled as run")
    shown, others = list(rows[:_SHOWN]), rows[_SHOWN:]
    table = [head, *(_class(row) for row in shown)]
    if others:
        added = {
            key: sum(row[key] for row in others)
            for key in ("ops", "predicted", "measured", "share", "joules_predicted", "joules_modelled")
        }
        label = ", ".join(sorted({row["label"] for row in others}))
        table.append(_class({**added, "kind": f"{len(others)} more", "label": label, "error": None}))
    return columns(table, right=(1, 2, 4, 5, 6, 7, 8))


def _class(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["kind"],
        str(row["ops"]),
        quantity(row["predicted"], "s"),
        row["label"],
        quantity(row["measured"], "s"),
        percent(row["share"]),
        "" if row["error"] is None else change(row["measured"], row["predicted"]),
        quantity(row["joules_predicted"], "J"),
        quantity(row["joules_modelled"], "J"),
    )


def _levels(run: Mapping[str, Any]) -> list[str]:
    """The ops and the whole, side by side."""
    found, seconds = run["summary"], run["seconds"]
    added = quantity(found["added"], "s")
    less = f", less the {added} that it adds to each" if found["added"] else ""
    lines = [
        f"{found['ops']} ops add up to {quantity(found['sum'], 's')}, measured by {found['how']} ({found['calls']} calls{less}); "
        "the whole ran without it"
    ]
    if found["median_error"] is not None:
        limit = f"{found['judged']} ops" + (f" above that, {percent(found['judged_share'])} of the time" if less else "")
        lines.append(
            f"errors, predicted against measured: {percent(found['median_error'])} in the median of |op| ({limit}), "
            f"{change(found['sum'], found['predicted'])} of the sum of ops, "
            f"{change(seconds['measured'], seconds['from_profile']['value'])} of the whole"
        )
    return [wrapped(line) for line in lines]


def _rest(joules: Mapping[str, Any]) -> list[str]:
    """What of the joules the idle device would have drawn, and on what the modelled ones rest."""
    static, rest = joules["static"], provenance_clause(joules["provenance"])
    drawn = f"{quantity(static['predicted'], 'J')} of the predicted, {quantity(static['as_run'], 'J')} of those as run"
    watts = f"{quantity(static['watts'], 'W')}, {NAMES[static['provenance']]}"
    return [f"static joules: {drawn} (modelled: {watts})", *([wrapped(f"modelled joules: {rest}")] if rest else [])]


def _floors(run: Mapping[str, Any]) -> str:
    floors, moved = run["floors"], run["moved"]
    joules = f"{quantity(floors['landauer'], 'J')} (Landauer; {quantity(floors['landauer_stored'], 'J')} if every op stores its results)"
    return wrapped(
        f"floors (modelled), which decide nothing: {joules}, {quantity(floors['memory_bytes'], 'B')} from and to memory at a cold start, "
        f"{quantity(floors['core_bytes'], 'B')} from and to cores, where it moves {quantity(moved['cache'], 'B')} (modelled)"
    )


def _sensors(joules: Mapping[str, Any]) -> list[str]:
    """What a counter's sensors said, or those of the recording that is replayed."""
    if "log" not in joules:
        return []
    log, replayed = joules["log"], joules["label"] == "replayed"
    windows = f"{log['windows']} windows, stopped when {'precise' if log['stopped'] == 'precise' else 'out of time'}"
    said = [
        log["device"],
        f"driver {log['driver']}" if log["driver"] else "",
        "" if log["temperature"] is None else f"{log['temperature']:.0f} °C",
        "" if log["clock"] is None else f"{log['clock']:.0f} MHz",
        "" if log["power_limit"] is None else f"limit {log['power_limit']:.0f} W",
        f"throttled: {', '.join(log['throttle'])}" if log["throttle"] else "",
        "" if log["cross_check"] is None else f"power over counter {log['cross_check']:.3f}",
        "" if replayed else windows,
    ]
    source = f"recorded: {joules['reason']} Sensors" if replayed else "counter (measured)"
    lines = [f"{source}: {', '.join(filter(None, said)) or 'none'}", *(f"doubt: {flag}" for flag in log["flags"])]
    return [wrapped(line) for line in lines]


def _difference(each: Mapping[str, Any]) -> str:
    return (
        f"{each['workload']}: the second takes {each['measured']:.3f} of the seconds of the first (measured, {each['low']:.3f} to "
        f"{each['high']:.3f}), predicted {each['predicted']:.3f} (modelled): sign {each['sign']}"
    )
