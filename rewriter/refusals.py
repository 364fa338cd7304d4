"""Refusals that hold on every runtime: sites to leave, by kind or by name, exact-only requests and missing calibration data."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from ..cost_model.errors import InputError
from ..cost_model.plan import Budget
from ..cost_model.sites import Kind
from .backend import EXACT_ACTIONS, EXACT_BUT, Group
from .calibration_data import CalibrationData
from .score_weights import by_weights

NO_DATA = "without calibration data its error cannot be known; give --calib"


def check_kinds(only: Collection[str]) -> frozenset[str]:
    """The kinds of sites that alone may change, none for all. Raises InputError for a word that is no `Kind`."""
    wanted = {only} if isinstance(only, str) else set(only)
    unknown = sorted(wanted - set(Kind))
    if unknown:
        raise InputError(f"There are no sites of kind {unknown[0]!r}; the kinds are {', '.join(Kind)}.")
    return frozenset(wanted)


def check_data_free(data_free: bool, calibration: Any, exact: bool) -> None:
    """InputError where a request to go by the weights contradicts another."""
    if data_free and (exact or calibration is not None):
        other = "--exact" if exact else "--calib"
        raise InputError(f"--data-free and {other} contradict each other; give one of them.")


def patterns_of(given: Collection[str]) -> tuple[str, ...]:
    """Shell patterns as they were given, one alone too."""
    return (given,) if isinstance(given, str) else tuple(given)


def check_patterns(groups: Iterable[Group], include: Sequence[str], exclude: Sequence[str]) -> None:
    """Raises InputError for a shell pattern that is the name of no site."""
    names = [name for group in groups for name in _names(group)]
    for option, patterns in (("--include", include), ("--exclude", exclude)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise InputError(
                    f"{option} {pattern!r} is the name of no site; `szilard rewrite` without it and `szilard explain` show the names"
                    + (f", such as {names[0]}." if names else ".")
                )


def left_out(group: Group, only: Collection[str], include: Sequence[str], exclude: Sequence[str]) -> str:
    """Why the sites of a group, decided together, are to be left by their names or their kind, "" if they are not: an exclusion counts
    before an inclusion, and one site of the group is enough for either."""
    for pattern in exclude:
        found = [name for name in _names(group) if fnmatchcase(name, pattern)]
        if found:
            return f"--exclude {pattern!r} names {found[0]}"
    if include and not any(fnmatchcase(name, pattern) for pattern in include for name in _names(group)):
        return "no --include names it"
    return f"only {' and '.join(sorted(only))} sites were to change" if only and group.kind not in only else ""


def _names(group: Group) -> tuple[str, ...]:
    return tuple(dict.fromkeys((group.id, *(site.id for site in group.sites))))


def refusals(
    actions: Mapping[str, str],
    *,
    exact: bool,
    budget: Budget,
    calibration: CalibrationData | None,
    data_free: bool = False,
    left: str = "",
) -> dict[str, str]:
    """`actions` (action -> sentence, "" if allowed) of one group of sites with the sentences that the request itself adds; `left` is what
    `left_out` says of them. `data_free`: what the weights alone tell an error of may be taken without calibration data."""
    if left:
        return {action: reason or ("" if action == "leave" else left) for action, reason in actions.items()}
    if exact or budget.error == 0:
        actions = {action: reason or EXACT_BUT.get(action, "") for action, reason in actions.items()}
        inexact = dict.fromkeys(actions, "only exact rewrites were asked for")
    elif calibration is None:
        told = "" if data_free else f"{NO_DATA}, or --data-free to go by the weights"
        untold = f"{NO_DATA} instead of --data-free" if data_free else NO_DATA
        inexact = {action: told if by_weights(action) else untold for action in actions}
    else:
        inexact = dict.fromkeys(actions, "")
    return {action: reason or ("" if action in EXACT_ACTIONS else inexact[action]) for action, reason in actions.items()}
