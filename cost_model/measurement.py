"""`Measurement`: what one configuration was seen to take, beside the work it does and what was predicted; kept as CSV."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cached_property
from io import StringIO
from pathlib import Path

from .cost import Cost
from .errors import InputError
from .whole_file import ADVICE, write_whole

SCOPES = ("model", "class", "op")
"""A whole model, all the ops of one kind in it, or a single op."""
LABELS = ("measured", "modelled", "replayed", "unavailable")
WORK = "work:"
"""What the CSV column of a kind of work starts with; the coefficient key follows."""

_BETWEEN = "; "
_REQUIRED = ("config", "family", "scope", "seconds")
_NUMBERS = (
    *("seconds", "seconds_low", "seconds_high", "joules", "joules_low", "joules_high", "predicted_seconds", "predicted_joules"),
    *("temperature", "clock", "power_limit"),
)


@dataclass(frozen=True)
class Measurement:
    """One configuration, measured once; a second row with the same `config` and work is a repeat. Raises ValueError naming the field.

    `work` maps coefficient keys to amounts ("flop.float32", "byte.memory", "launch"), without "static". `seconds` and `joules` are per
    call, each with the interval its meter stated; `label` says how the joules were had and `reason` why there are none. `family` is
    what is held out as a whole ("bert", "convnet"; "matmul" for microbenchmarks), `scope` one of `SCOPES`. `rewritten_from` names
    the config that this one rewrites. `temperature` [deg C], `clock` [MHz], `power_limit` [W] and `throttle` are what the meter logged.
    """

    config: str
    family: str
    scope: str
    work: Mapping[str, float]
    seconds: float
    seconds_low: float
    seconds_high: float
    joules: float | None
    joules_low: float | None
    joules_high: float | None
    label: str
    predicted_seconds: float | None = None
    predicted_joules: float | None = None
    rewritten_from: str = ""
    temperature: float | None = None
    clock: float | None = None
    power_limit: float | None = None
    throttle: str = ""
    device: str = ""
    driver: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        for name in ("config", "family"):
            if not getattr(self, name).strip():
                raise ValueError(f"{name} is empty")
        for name, value, words in (("scope", self.scope, SCOPES), ("label", self.label, LABELS)):
            if value not in words:
                raise ValueError(f"{name} is {value!r} and must be one of {', '.join(words)}")
        for key, amount in self.work.items():
            if not (math.isfinite(amount) and amount >= 0) or key == "static" or not key:
                raise ValueError(
                    f"{WORK}{key} is {amount}; amounts are finite and not negative, and static work is the seconds"
                )
        for name in _NUMBERS:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and (value > 0 or name not in _ABOVE_ZERO)):
                raise ValueError(f"{name} is {value} and must be finite{' and above zero' if name in _ABOVE_ZERO else ''}")
        if not self.seconds_low <= self.seconds <= self.seconds_high:
            raise ValueError(
                f"seconds {self.seconds} lie outside seconds_low {self.seconds_low} to seconds_high {self.seconds_high}"
            )
        if (self.joules is None) != (self.label == "unavailable"):
            raise ValueError(f"label is {self.label!r} with joules {self.joules}; only unavailable joules are left out")
        if self.joules is not None and not (
            self.joules_low is not None and self.joules_high is not None and self.joules_low <= self.joules <= self.joules_high
        ):
            raise ValueError(f"joules {self.joules} lie outside joules_low {self.joules_low} to joules_high {self.joules_high}")

    @cached_property
    def hash(self) -> str:
        """16 hex digits of the SHA-256 of what was run: config, family and work."""
        return _digest([self.config, self.family, sorted((key, float(amount)) for key, amount in self.work.items())])

    @property
    def design(self) -> dict[str, float]:
        """The work with the measured seconds as "static": a row for `fit` of joules."""
        return {**self.work, "static": self.seconds}


_ABOVE_ZERO = ("seconds", "joules", "predicted_seconds", "predicted_joules", "power_limit")


def throttle_text(reasons: Iterable[str]) -> str:
    """Reasons why clocks were held down as a row has them, each once; `throttle_reasons` is its inverse."""
    return _BETWEEN.join(dict.fromkeys(reasons))


def throttle_reasons(text: str) -> tuple[str, ...]:
    """The reasons in the `throttle` of a row."""
    return tuple(filter(None, text.split(_BETWEEN)))


def work_of(cost: Cost) -> dict[str, float]:
    """The amounts behind a cost, by coefficient key: "flop.<dtype>", "byte.<level>", "link" and "launch"; none that is zero."""
    work = {f"flop.{dtype}": flops for dtype, flops in cost.flops_by_dtype.items()}
    work |= {"link" if level == "link" else f"byte.{level}": size for level, size in cost.bytes_by_level.items()}
    work["launch"] = float(cost.launches)
    return {key: float(amount) for key, amount in work.items() if amount}


def split_hash(families_fit: Iterable[str], families_held_out: Iterable[str]) -> str:
    """16 hex digits that stand for a split into families to fit on and families to judge on, in any order. Print it before fitting."""
    return _digest([sorted(set(families_fit)), sorted(set(families_held_out))])


def write_measurements(path: str | Path, rows: Iterable[Measurement], advice: str = ADVICE) -> None:
    """The rows as CSV, one column for each field and each kind of work, in one rename; `read_measurements` is its inverse.

    Folders that are not there are made. Raises InputError, which ends in `advice`, where the file cannot be written.
    """
    found, text = tuple(rows), StringIO(newline="")
    keys = sorted({key for row in found for key in row.work})
    plain = [field.name for field in fields(Measurement) if field.name != "work"]
    table = csv.writer(text)
    table.writerow([*plain[:3], "hash", *(WORK + key for key in keys), *plain[3:]])
    for row in found:
        cells = [_cell(getattr(row, field)) for field in plain]
        table.writerow([*cells[:3], row.hash, *(_cell(row.work.get(key)) for key in keys), *cells[3:]])
    with suppress(OSError):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.getvalue(), advice)


def read_measurements(path: str | Path) -> tuple[Measurement, ...]:
    """The rows of a CSV that `write_measurements` wrote, or that somebody wrote by hand: optional columns may be left out, an interval then
    is the value alone. Raises InputError naming the line and the column at fault."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            names = next(reader, [])
            _check_names(path, names)
            lines = [(reader.line_num, cells) for cells in reader if cells]
    except OSError as fault:
        raise InputError(f"The measurements {path} cannot be read: {fault.strerror or fault}.") from fault
    except (UnicodeDecodeError, csv.Error) as fault:
        raise InputError(f"The measurements {path} are not CSV in UTF-8 ({fault}).") from fault
    rows: list[Measurement] = []
    known: dict[str, str] = {}
    for line, cells in lines:
        rows.append(_row(f"Line {line} of {path}", names, cells))
        if known.setdefault(rows[-1].config, rows[-1].hash) != rows[-1].hash:
            raise InputError(f"Line {line} of {path}: config {rows[-1].config!r} is there before with other work; rename one.")
    if not rows:
        raise InputError(f"The measurements {path} hold no rows; measure something first.")
    return tuple(rows)


def _check_names(path: str | Path, names: Sequence[str]) -> None:
    known = {field.name for field in fields(Measurement)} - {"work"} | {"hash"}
    for name in names:
        if name not in known and not (name.startswith(WORK) and len(name) > len(WORK)):
            raise InputError(f"Line 1 of {path} has an unknown column {name!r}; work is written {WORK}<coefficient>.")
        if names.count(name) > 1:
            raise InputError(f"Line 1 of {path} has the column {name!r} twice; remove one.")
    for name in _REQUIRED:
        if name not in names:
            raise InputError(f"Line 1 of {path} lacks the column {name!r}; add it.")


def _row(where: str, names: Sequence[str], cells: Sequence[str]) -> Measurement:
    if len(cells) != len(names):
        raise InputError(f"{where} has {len(cells)} cells and the header {len(names)}; write one cell for each column.")
    work: dict[str, float] = {}
    given: dict[str, object] = {}
    for name, text in zip(names, cells, strict=True):
        if name.startswith(WORK):
            if text:
                work[name.removeprefix(WORK)] = _number(where, name, text)
        elif name in _NUMBERS:
            given[name] = _number(where, name, text) if text else None
        elif name != "hash":
            given[name] = text
    if given["seconds"] is None:
        raise InputError(f"{where}, column seconds: there is no number; write the seconds of one call.")
    label = "unavailable" if given.get("joules") is None else ""
    defaults: dict[str, object] = {"config": "", "family": "", "scope": "", "joules": None, "label": label}
    merged = {**defaults, **{name: value for name, value in given.items() if value not in (None, "")}}
    for quantity in ("seconds", "joules"):
        for end in ("low", "high"):
            merged.setdefault(f"{quantity}_{end}", merged[quantity])
    try:
        row = Measurement(work=work, **merged)  # type: ignore[arg-type]
    except ValueError as fault:
        raise InputError(f"{where}: {fault}.") from fault
    stated = dict(zip(names, cells, strict=True)).get("hash", "")
    if stated and stated != row.hash:
        raise InputError(
            f"{where}, column hash: {stated} is not that of its config, family and work; measure again, do not edit."
        )
    return row


def _number(where: str, name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{where}, column {name}: {text!r} is not a number.") from None


def _cell(value: object) -> str:
    if value is None:
        return ""
    return repr(float(value)) if isinstance(value, int | float) else str(value)


def _digest(data: object) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]
