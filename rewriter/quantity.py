"""Numbers as people read them: three significant digits, an SI prefix and a unit, the same in tables, reports and sentences."""

from __future__ import annotations

import math

_PREFIXES = {
    24: "Y",
    21: "Z",
    18: "E",
    15: "P",
    12: "T",
    9: "G",
    6: "M",
    3: "k",
    0: "",
    -3: "m",
    -6: "µ",
    -9: "n",
    -12: "p",
    -15: "f",
    -18: "a",
    -21: "z",
}
UNKNOWN = "unknown"


def quantity(value: float | None, unit: str) -> str:
    """`value` in `unit` with three digits, "1.23 ms"; "unknown" for None and for what is not finite."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value == 0:
        return f"0 {unit}"
    rounded = float(f"{value:.3g}")
    power = math.floor(math.log10(abs(rounded)) / 3 + 1e-9) * 3
    if power not in _PREFIXES:
        return f"{value:.3g} {unit}"
    scaled = rounded / 10.0**power
    decimals = 0 if abs(scaled) > 99.95 else 1 if abs(scaled) > 9.995 else 2
    return f"{scaled:.{decimals}f} {_PREFIXES[power]}{unit}"


def number(value: float | None, digits: int = 3) -> str:
    """A plain number with `digits` significant digits, "unknown" for None."""
    return UNKNOWN if value is None or not math.isfinite(value) else f"{value:.{digits}g}"


def percent(share: float | None) -> str:
    """A share in percent with one decimal, "15.4 %"; "unknown" for None."""
    return UNKNOWN if share is None else f"{100 * share:.1f} %"


def change(before: float | None, after: float | None) -> str:
    """The change from `before` to `after` in percent of `before`, "-41 %"; "unknown" where there is no base to compare with."""
    if before is None or after is None or not before or not math.isfinite(before) or not math.isfinite(after):
        return UNKNOWN
    percent = (after / before - 1) * 100
    shown = f"{percent:+.1f}" if abs(percent) < 10 else f"{percent:+.0f}"
    return "0 %" if shown in ("+0.0", "-0.0") else f"{shown} %"
