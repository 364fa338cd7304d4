"""Refusals that hold on every runtime: kinds of sites to leave, exact-only requests and missing calibration data."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..cost_model.errors import InputError
from ..cost_model.plan import Budget
from ..cost_model.sites import Kind
from .backend import EXACT_ACTIONS
from .calibration_data import CalibrationData


def check_kinds(only: Collection[str]) -> frozenset[str]:
    """The kinds of sites that alone may change, none for all. Raises InputError for a word that is no `Kind`."""
    wanted = {only} if isinstance(only, str) else set(only)
    unknown = sorted(wanted - set(Kind))
    if unknown:
        raise InputError(f"There are no sites of kind {unknown[0]!r}; the kinds are {', '.join(Kind)}.")
    return frozenset(wanted)


def refusals(
    actions: Mapping[str, str],
    kind: str,
    *,
    exact: bool,
    budget: Budget,
    calibration: CalibrationData | None,
    only: Collection[str] = (),
) -> dict[str, str]:
    """`actions` (action -> sentence, "" if allowed) of sites of `kind` with the sentences that the request itself adds."""
    if only and kind not in only:
        sentence = f"only {' and '.join(sorted(only))} sites were to change"
        return {action: reason or ("" if action == "leave" else sentence) for action, reason in actions.items()}
    if exact or budget.error == 0:
        sentence = "only exact rewrites were asked for"
    elif calibration is None:
        sentence = "without calibration data its error cannot be known; give --calib"
    else:
        sentence = ""
    return {action: reason or ("" if action in EXACT_ACTIONS else sentence) for action, reason in actions.items()}
