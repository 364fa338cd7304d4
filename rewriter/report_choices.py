"""The choices of a plan as a report shows them: grouped by runtime, every option a row of texts with units."""

from __future__ import annotations

import math
from typing import Any

from ..cost_model.plan import Choice, Option, Plan
from .quantity import change, number, quantity

NOT_AVAILABLE = "not available"


def choice_groups(plan: Plan) -> list[dict[str, Any]]:
    """{"heading", "changed", "rows"} for what was changed and for what was left, on one runtime (and in one program) after the other; none
    is empty."""
    scale = max([option.joules for choice in plan.choices for option in (choice.before, choice.after)], default=0.0)
    groups = []
    for place in dict.fromkeys(choice.place for choice in plan.choices):
        for changed, heading in ((True, f"What was changed on {place}"), (False, f"What was left as it is on {place}")):
            rows = [_row(c, scale) for c in plan.choices if c.place == place and (c.action != "leave") == changed]
            if rows:
                groups.append({"heading": heading, "changed": changed, "rows": rows})
    return groups


def error_text(error: float | None) -> str:
    """A predicted relative squared error; "" for one that was never scored."""
    return number(error) if error is not None and math.isfinite(error) else ""


def _row(choice: Choice, scale: float) -> dict[str, Any]:
    before, after = choice.before, choice.after
    return {
        "site": choice.site,
        "kind": choice.kind,
        "action": choice.action,
        "locked": choice.locked,
        "members": [site for site in choice.sites if site != choice.site],
        "before": quantity(before.joules, "J"),
        "after": quantity(after.joules, "J"),
        "change": change(before.joules, after.joules),
        "width_before": f"{100 * before.joules / scale:.2f}" if scale else "0",
        "width_after": f"{100 * after.joules / scale:.2f}" if scale else "0",
        "error": error_text(after.error),
        "reason": choice.reason,
        "options": [_option(option, choice) for option in choice.options],
    }


def _option(option: Option, choice: Choice) -> dict[str, Any]:
    low, high = option.saving
    possible = math.isfinite(option.joules)
    return {
        "action": option.action,
        "taken": option.action == choice.action,
        "joules": quantity(option.joules, "J") if possible else NOT_AVAILABLE,
        "seconds": quantity(option.seconds, "s") if possible else "",
        "label": option.label,
        "saving": f"{quantity(low, 'J')} to {quantity(high, 'J')}" if possible and option.action != "leave" else "",
        "error": error_text(option.error) if possible else "",
        "reason": option.reason,
    }
