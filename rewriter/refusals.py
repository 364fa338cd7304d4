"""Refusals that hold on every runtime: exact-only requests and missing calibration data."""

from __future__ import annotations

from collections.abc import Mapping

from ..cost_model.plan import Budget
from .backend import EXACT_ACTIONS
from .calibration_data import CalibrationData


def refusals(actions: Mapping[str, str], *, exact: bool, budget: Budget, calibration: CalibrationData | None) -> dict[str, str]:
    """`actions` (action -> sentence, "" if allowed) with the sentences that the request itself adds."""
    if exact or budget.error == 0:
        sentence = "only exact rewrites were asked for"
    elif calibration is None:
        sentence = "without calibration data its error cannot be known; give --calib"
    else:
        sentence = ""
    return {action: reason or ("" if action in EXACT_ACTIONS else sentence) for action, reason in actions.items()}
