"""The fields of a profile's calibration record, checked: a user may have edited the file, and what reads the record trusts its types."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from .errors import InputError

FEATURES = ("seconds", "flops", "bytes")
"""What a baseline may be a sum of; `baselines.features` gives them for a row."""

_QUANTITIES = ("joules", "seconds")


def check_calibration(record: Any, where: str) -> None:
    """`record` holds some of the fields of `fitted_profile.calibration_record`, each as that writes it, or none. `where` names the file.
    Raises InputError naming the field at fault; fields of other names are left alone."""
    if not isinstance(record, dict):
        raise InputError(f"The device profile {where} needs an object under 'calibration', not {_shown(record)}.")
    for field, (fits, wanted) in _FIELDS.items():
        if field in record and not fits(record[field]):
            raise InputError(f"The device profile {where} needs {wanted} under {field!r} of 'calibration'; {_AGAIN}.")


_AGAIN = "take the file as szilard calibrate wrote it, or leave 'calibration' out"


def _shown(value: Any) -> str:
    return {list: "a list", str: "a text", bool: "a truth value", type(None): "null"}.get(type(value), "a number")


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max


def _positive(value: Any) -> bool:
    return _number(value) and value > 0


def _number_or_null(value: Any) -> bool:
    return value is None or _number(value)


def _fits(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_fit, value.values()))


def _fit(value: Any) -> bool:
    fields = {"rows": _count, "condition": _number_or_null, "residual": _number, "at_prior": _texts}
    return isinstance(value, dict) and all(field in value and fits(value[field]) for field, fits in fields.items())


def _baselines(value: Any) -> bool:
    if not isinstance(value, dict) or any(quantity not in _QUANTITIES for quantity in value):
        return False
    found = [baseline for named in value.values() if isinstance(named, dict) for baseline in named.values()]
    return all(isinstance(named, dict) for named in value.values()) and all(map(_baseline, found))


def _baseline(value: Any) -> bool:
    return isinstance(value, dict) and all(name in FEATURES and _number(amount) for name, amount in value.items())


def _machine(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_text, value.values()))


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "families": (_texts, "a list of texts"),
    "held_out": (_texts, "a list of texts"),
    "split_hash": (_text, "a text"),
    "rows": (_count, "a whole number"),
    "condition": (_number_or_null, "a number that is not negative, or null,"),
    "fits": (_fits, "an object of fits, each with 'rows', 'condition', 'residual' and 'at_prior',"),
    "baselines": (
        _baselines,
        "an object of the baselines of 'joules' and 'seconds', each a price for some of " + ", ".join(FEATURES) + ",",
    ),
    "date": (_text, "a text"),
    "machine": (_machine, "an object of texts"),
    "measuring_seconds": (_number, "a number that is not negative,"),
    "probe_seconds": (_positive, "a number above zero"),
}
