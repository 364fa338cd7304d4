"""Why a rewrite came out as it did, read back from the folder: every choice, every refusal, or one site with all its options."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..cost_model.errors import InputError
from ..cost_model.plan import Choice, Option, Plan
from .asked_bits import asked_bits, bits_of
from .command_line_output import columns, read_json, wrapped
from .folder import is_emitted
from .json_text import plain
from .quantity import change, number, quantity
from .report_choices import NOT_AVAILABLE, error_text
from .report_view import few, headline
from .structure_report import structure_sentence

PLACE = ("site", "runtime", "program")
"""What tells one choice, or one row of a report, from the others."""
_SHOWN_NAMES = 5
_LABELS = "  Joules and savings are modelled, errors predicted; how seconds were had is beside them."


def read_plan(path: Path) -> Plan:
    """The plan in a plan.json. Raises InputError naming the file and what is wrong with it."""
    try:
        return Plan.from_json(read_json(path, "plan"))
    except InputError as fault:
        if str(path) in str(fault):
            raise
        raise InputError(f"{path}: {fault}") from fault


def read_report(folder: Path) -> dict[str, Any]:
    """The report.json of an emitted folder. Raises InputError where it cannot be read or is no report."""
    report = read_json(folder / "report.json", "report")
    if not isinstance(report, dict) or "joules" not in report:
        raise InputError(f"{folder / 'report.json'} is not a report of szilard; write the folder again with `szilard rewrite`.")
    return report


def read_emitted(folder: Path) -> tuple[Plan, dict[str, Any]]:
    """(plan, report) of an emitted folder. Raises InputError where szilard did not write it, or it cannot be read."""
    if not is_emitted(folder):
        raise InputError(
            f"{folder} is not a folder that szilard wrote; it needs plan.json and report.json. Write one with `szilard rewrite`."
        )
    return read_plan(folder / "plan.json"), read_report(folder)


def explain(folder: Path, site: str = "") -> dict[str, Any]:
    """The choices and misses of an emitted folder as plain data; with `site` (a group, a member or a refused op) that one alone
    with all its options (J and s per call, relative squared error).

    Raises InputError when the folder is not one that Szilard wrote, and for an unknown site, with the closest names.
    """
    plan, report = read_emitted(folder)
    asked = {place: asked_bits([c for c in plan.choices if c.runtime == place]) for place in {c.runtime for c in plan.choices}}
    if not site:
        return {
            "headline": headline(report, plan),
            "choices": [_summary(choice, report, asked[choice.runtime]) for choice in plan.choices],
            "misses": [plain(miss) for miss in plan.misses],
            "rolled_back": list(report.get("rolled_back", ())),
        }
    choices = [choice for choice in plan.choices if site == choice.site or site in choice.sites]
    misses = [plain(miss) for miss in plan.misses if site == miss.op]
    if not choices and not misses:
        raise InputError(_unknown(site, plan))
    detailed = [
        {**_summary(choice, report, asked[choice.runtime]), "options": [_option(o, choice) for o in choice.options]}
        for choice in choices
    ]
    return {"site": site, "choices": detailed, "misses": misses}


def explain_text(found: Mapping[str, Any]) -> str:
    """What `explain` found, for people."""
    parts = [found["headline"]] if "headline" in found else []
    parts += [_choice_text(choice) for choice in found["choices"]]
    parts += [wrapped(f"refused {miss['kind']} at {miss['op']}: {miss['reason']}") for miss in found["misses"]]
    parts += [wrapped(f"rolled back by the check: {entry}") for entry in found.get("rolled_back", ())]
    return "\n\n".join(parts)


def _summary(choice: Choice, report: Mapping[str, Any], asked: Mapping[tuple[str, str], float]) -> dict[str, Any]:
    return {
        "site": choice.site,
        "kind": choice.kind,
        "runtime": choice.runtime,
        "program": choice.program,
        "action": choice.action,
        "locked": choice.locked,
        "sites": list(choice.sites),
        "joules_before": choice.before.joules,
        "joules_after": choice.after.joules,
        "error_predicted": choice.after.error,
        "reason": choice.reason,
        "bits_asked": asked.get((choice.program, choice.site)),
        "bits_taken": bits_of(choice.action),
        "heads": _heads(choice, report),
        "structure": [row for row in report.get("structure", ()) if _is_of(row, choice)],
    }


def _heads(choice: Choice, report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was found of each head, where the choice is an attention that was scored."""
    rows = [row for row in report.get("attention", ()) if _is_of(row, choice)]
    return [{**head, "tile": row["tile"]} for row in rows for head in row["heads"]]


def _is_of(row: Mapping[str, Any], choice: Choice) -> bool:
    """Whether a row of the report is about the site of a choice."""
    return all(row.get(key, "") == getattr(choice, key, "") for key in PLACE)


def _option(option: Option, choice: Choice) -> dict[str, Any]:
    return {**plain(option), "taken": option.action == choice.action}


def _choice_text(choice: Mapping[str, Any]) -> str:
    before, after = choice["joules_before"], choice["joules_after"]
    locked = " (locked)" if choice["locked"] else ""
    place = choice["runtime"] + (f" ({choice['program']})" if choice["program"] else "")
    energy = quantity(before, "J") + (
        f" -> {quantity(after, 'J')} ({change(before, after)})" if choice["action"] != "leave" else ""
    )
    lines = [
        f"{choice['site']}: {choice['action']}{locked}, {choice['kind']} on {place}, {energy} modelled",
        wrapped(choice["reason"], "  "),
    ]
    if choice["bits_asked"] is not None:
        lines.append(f"  the closed form asks {number(choice['bits_asked'], 2)} bits here; {choice['bits_taken']} were taken")
    others = [name for name in choice["sites"] if name != choice["site"]]
    if others:
        lines.append(wrapped(f"decided together: {', '.join(others)}", "  "))
    if choice["heads"]:
        budgets = ", ".join("dense" if head["budget"] is None else str(head["budget"]) for head in choice["heads"])
        errors = ", ".join(number(head["error"], 2) for head in choice["heads"] if head["budget"] is not None)
        lines.append(wrapped(f"exact tiles of {choice['heads'][0]['tile']} keys, head by head: {budgets}", "  "))
        lines += [wrapped(f"relative errors of their outputs (measured): {errors}", "  ")] if errors else []
    if "options" in choice:
        lines += [wrapped(structure_sentence(row), "  ") for row in choice["structure"]]
        rows: list[tuple[str, ...]] = [("  option", "joules", "seconds", "seconds were", "error", "saving")]
        rows += [_option_row(option) for option in choice["options"]]
        header, *table = columns(rows, right=(1, 2, 4)).splitlines()
        lines += [_LABELS, header]
        for line, option in zip(table, choice["options"], strict=True):
            lines += [line, *([wrapped(f"not taken: {option['reason']}", "      ")] if option["reason"] else [])]
    return "\n".join(lines)


def _option_row(option: Mapping[str, Any]) -> tuple[str, ...]:
    name = ("* " if option["taken"] else "  ") + option["action"]
    if option["joules"] is None:
        return (name, NOT_AVAILABLE, "", "", "", "")
    low, high = option["saving"]
    saving = "" if option["action"] == "leave" else f"{quantity(low, 'J')} to {quantity(high, 'J')}"
    prices = quantity(option["joules"], "J"), quantity(option["seconds"], "s")
    return (name, *prices, option["label"], error_text(option["error"]), saving)


def _unknown(site: str, plan: Plan) -> str:
    names = list(dict.fromkeys([*(n for c in plan.choices for n in (c.site, *c.sites)), *(miss.op for miss in plan.misses)]))
    close = difflib.get_close_matches(site, names, n=_SHOWN_NAMES, cutoff=0.5)
    close += [name for name in names if site.lower() in name.lower() and name not in close][: _SHOWN_NAMES - len(close)]
    if close:
        return f"There is no site {site!r}; the closest are: {', '.join(close)}."
    return f"There is no site {site!r}; " + (f"the plan has: {few(names)}." if names else "the plan has no site at all.")
