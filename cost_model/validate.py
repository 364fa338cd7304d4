"""`validate`: how far a profile's predictions are from measurements of families it was not fitted on, beside baselines.

Models, classes of ops and single ops are judged apart (errors of ops cancel in a model), and so are joules that were measured, modelled
and replayed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from .accuracy import Change, Errors, Signs, errors_of, noise_floor, signs_of
from .baselines import FLOPS, FLOPS_AND_BYTES, ROOFLINE, TDP, fit_baselines, fits_of, roofline, tdp_baseline
from .baselines import predict as baseline_cost
from .device import Device
from .held_out import Split, split_families
from .measurement import LABELS, SCOPES, Measurement

ON_MEASURED = "profile, measured seconds"
ON_PREDICTED = "profile, predicted seconds"
SECONDS = "predicted seconds"
_TIMELESS = (FLOPS, FLOPS_AND_BYTES)

Predictor = Callable[[Measurement], float | None]


@dataclass(frozen=True)
class Judged:
    """One way to predict a quantity, judged on the configs it has an answer for. For a baseline `beaten` says whether the profile's mean
    error is lower, with the prediction named by `against`, on the same configs; None where they cannot be compared."""

    method: str
    errors: Errors
    signs: Signs
    against: str = ""
    beaten: bool | None = None


@dataclass(frozen=True)
class Table:
    """Predictions of `quantity` ("joules" or "seconds") of configs of one `scope`, whose values are all `label`.

    `half_width` is the median relative half-width of the measured intervals, `noise` the noise floor from repeats, None without any.
    `reason` says what is missing: all of it where `label` is "unavailable", else some of the methods.
    """

    quantity: str
    scope: str
    label: str
    configs: int
    half_width: float | None
    noise: float | None
    judged: tuple[Judged, ...]
    reason: str = ""


@dataclass(frozen=True)
class Validation:
    """The verdict on the profile `device`: how the families were split, the tables, and what a reader must know of them. `coefficients`
    gives the keys that predicted joules, by their provenance in the profile."""

    device: str
    split: Split
    coefficients: Mapping[str, tuple[str, ...]]
    tables: tuple[Table, ...]
    notes: tuple[str, ...]


def validate(rows: Sequence[Measurement], device: Device, held_out: Iterable[str] = ()) -> Validation:
    """Judge `device` on the held-out families of `rows` (see `split_families`); repeats of a config count once, by their mean.

    Joules are predicted from a row's work with its measured seconds, and again with its predicted seconds, stretched where the power limit
    would be passed. Raises InputError when the split is not honest or the profile lacks a coefficient for the work.
    """
    split = split_families(rows, device, held_out)
    tables = []
    for quantity in ("joules", "seconds"):
        for scope in SCOPES:
            tables += _tables(quantity, scope, rows, split, device)
    return Validation(device.name, split, _provenances(rows, split, device), tuple(tables), _notes(rows, split, device))


def predicted_joules(row: Measurement, device: Device, seconds: float) -> float:
    """What the profile says the work of a row costs in `seconds` [J]. Raises InputError naming a coefficient that it lacks."""
    return _dynamic(row, device) + device.value("static") * seconds


def _on_predicted(row: Measurement, device: Device) -> float | None:
    if row.predicted_seconds is None:
        return None
    headroom = device.value("power_limit") - device.value("static")
    return predicted_joules(row, device, max(row.predicted_seconds, _dynamic(row, device) / headroom))


def _dynamic(row: Measurement, device: Device) -> float:
    return sum(device.value(_priced_as(key, device)) * amount for key, amount in row.work.items())


def _priced_as(key: str, device: Device) -> str:
    return f"flop.{device.resolve(key.removeprefix('flop.'))}" if key.startswith("flop.") else key


def _provenances(rows: Sequence[Measurement], split: Split, device: Device) -> dict[str, tuple[str, ...]]:
    judged = [row for row in rows if row.family in split.held_out and row.joules is not None]
    used = {_priced_as(key, device) for row in judged for key in row.work} | ({"static"} if judged else set())
    found: dict[str, list[str]] = {}
    for key in sorted(used):
        found.setdefault(device.coefficients[key].provenance, []).append(key)
    return {provenance: tuple(keys) for provenance, keys in sorted(found.items())}


def _tables(quantity: str, scope: str, rows: Sequence[Measurement], split: Split, device: Device) -> list[Table]:
    judged = [row for row in rows if row.scope == scope and row.family in split.held_out]
    groups: dict[str, list[Measurement]] = {
        label: [row for row in judged if _label(row, quantity) == label] for label in LABELS
    }
    tables = [
        _table(quantity, scope, label, groups[label], [row for row in rows if _label(row, quantity) == label], split, device)
        for label in LABELS[:-1]
        if groups[label]
    ]
    if groups["unavailable"]:
        reasons = list(dict.fromkeys(row.reason or "the measurements do not say why" for row in groups["unavailable"]))
        configs = len({row.config for row in groups["unavailable"]})
        tables.append(Table(quantity, scope, "unavailable", configs, None, None, (), "; ".join(reasons)))
    return tables


def _label(row: Measurement, quantity: str) -> str:
    """Seconds are as real as the meter: simulated with modelled joules, and measured where only the joules are unavailable."""
    return "measured" if quantity == "seconds" and row.label == "unavailable" else row.label


def _table(
    quantity: str,
    scope: str,
    label: str,
    judged: Sequence[Measurement],
    alike: Sequence[Measurement],
    split: Split,
    device: Device,
) -> Table:
    repeats: dict[str, list[Measurement]] = {}
    for row in judged:
        repeats.setdefault(row.config, []).append(row)
    configs = {name: _mean(found) for name, found in repeats.items()}
    noise = noise_floor([[getattr(row, quantity) for row in found] for found in repeats.values()])
    half = statistics.median(_half_width(row, quantity) / getattr(row, quantity) for row in configs.values())
    own: dict[str, Predictor] = {SECONDS: lambda row: row.predicted_seconds}
    if quantity == "joules":
        own = {
            ON_MEASURED: lambda row: predicted_joules(row, device, row.seconds),
            ON_PREDICTED: lambda row: _on_predicted(row, device),
        }
    # Those that the profile remembers saw the very rows that it was fitted on.
    fitted = device.calibration.get("baselines", {}).get(quantity, {})
    fitted = fitted or fit_baselines([row for row in alike if row.family in split.fit])[quantity]
    baselines = fits_of({**({TDP: tdp_baseline(device)} if quantity == "joules" else {}), **fitted})
    theirs: dict[str, list[Predictor]] = {
        name: [partial(baseline_cost, one) for one in fits] for name, fits in baselines.items()
    }
    if quantity == "seconds":
        theirs[ROOFLINE] = [partial(roofline, device)]
    found = [one for method, predictor in own.items() if (one := _judge(method, predictor, configs, quantity))]
    missing = [] if len(found) == len(own) else ["no config has predicted seconds"]
    if not fitted:
        missing.append("no rows of a fit family to fit the baselines on; hold a family out by name to use the others")
    mine = tuple(found)
    for name, predictors in theirs.items():
        judged_fits = [one for predictor in predictors if (one := _judge(name, predictor, configs, quantity))]
        if judged_fits:
            # Of its fits a baseline may have the one that is best in hindsight: it is beaten only if all of them are.
            found.append(_compared(min(judged_fits, key=lambda one: one.errors.mape), mine))
    return Table(quantity, scope, label, len(configs), half, noise, tuple(found), "; ".join(missing))


def _judge(method: str, predictor: Predictor, configs: Mapping[str, Measurement], quantity: str) -> Judged | None:
    predicted = {name: value for name, row in configs.items() if (value := predictor(row)) is not None}
    if not predicted:
        return None
    measured = {name: float(getattr(configs[name], quantity)) for name in predicted}
    changes = [
        Change(
            name,
            (predicted[before], predicted[name]),
            (measured[before], measured[name]),
            (_half_width(configs[before], quantity), _half_width(configs[name], quantity)),
        )
        for name in predicted
        if (before := configs[name].rewritten_from) in predicted
    ]
    return Judged(method, errors_of(list(predicted), list(predicted.values()), list(measured.values())), signs_of(changes))


def _compared(theirs: Judged, mine: Sequence[Judged]) -> Judged:
    """A baseline that is not told the time is compared with the prediction that is not told it either, where that one has every answer."""
    alike = [one for one in mine if one.errors.count == theirs.errors.count]
    if not alike:
        return theirs
    against = alike[-1] if theirs.method in _TIMELESS else alike[0]
    return replace(theirs, against=against.method, beaten=against.errors.mape < theirs.errors.mape)


def _mean(repeats: Sequence[Measurement]) -> Measurement:
    names = ("seconds", "seconds_low", "seconds_high", "joules", "joules_low", "joules_high")
    means: dict[str, Any] = {
        name: statistics.fmean(getattr(row, name) for row in repeats) for name in names if getattr(repeats[0], name) is not None
    }
    return replace(repeats[0], **means)


def _half_width(row: Measurement, quantity: str) -> float:
    return (getattr(row, f"{quantity}_high") - getattr(row, f"{quantity}_low")) / 2.0


def _notes(rows: Sequence[Measurement], split: Split, device: Device) -> tuple[str, ...]:
    record, notes = device.calibration, []
    if not record:
        notes.append(f"{device.name} records no calibration: nothing of it was fitted, and every held-out family is new to it.")
    if split.unpromised:
        promised = ", ".join(record.get("held_out", ())) or "others"
        notes.append(
            f"Nobody named {', '.join(split.unpromised)} as held out before {device.name} was fitted (those are {promised}): "
            "name the family that such a model belongs to when it is measured, with --family."
        )
    used = sorted({row.family for row in rows} & set(record.get("families", ())))
    if used:
        notes.append(f"{device.name} was fitted on {', '.join(used)}; those rows judge nothing.")
    names = {row.config for row in rows if row.family in split.held_out}
    lost = sorted(
        {row.config for row in rows if row.config in names and row.rewritten_from and row.rewritten_from not in names}
    )
    if lost:
        notes.append(f"The model that was rewritten is missing for {', '.join(lost)}: the sign of that change is not judged.")
    known = str(record.get("machine", {}).get("device", ""))
    other = sorted({row.device for row in rows if row.device and known and row.device != known})
    if other:
        notes.append(
            f"{device.name} was fitted on {known}, and rows were measured on {', '.join(other)}: coefficients differ by card."
        )
    return tuple(notes)
