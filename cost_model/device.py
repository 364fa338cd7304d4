"""`Device`: what one flop, byte, launch and second cost on one machine, every number with its uncertainty and where it came from.

Profiles are JSON files in `devices/`; a user's own file is read the same way. Keys and units are those of `UNITS`.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from dataclasses import field as dataclass_field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from .calibration_schema import check_calibration
from .errors import InputError

FORMAT = 1
Z90 = 1.6448536269514722
"""Half-width of a 5 % to 95 % interval of the normal distribution, in standard deviations."""

PROVENANCES = ("prior", "datasheet", "modelled", "measured")
UNITS = {
    "flop": "J/flop",
    "byte": "J/B",
    "link": "J/B",
    "launch": "J",
    "static": "W",
    "power_limit": "W",
    "rate": "flop/s",
    "bandwidth": "B/s",
    "capacity": "B",
    "launch_seconds": "s",
    "utilisation": "1",
}
"""The unit of a coefficient, by the first part of its key; `coefficients.FAMILIES` says what each means."""

TIME_UNITS = {
    "call": "s",
    "flop": "s/flop",
    "vector_flop": "s/flop",
    **dict.fromkeys(("near_byte", "cached_byte", "memory_byte", "cached_weight_byte", "memory_weight_byte"), "s/B"),
}
"""The unit of a coefficient of time, "time.<runtime>.<kernel>.<feature>", by its feature.

A call is one start of the kernel; flops are those of matrix products, vector flops the others. A byte is near when all activations of
its op fit "capacity.near", cached when they fit "capacity.cache", else it is one of memory; a weight is cached when all weights of the
model fit.
"""

REQUIRED = (
    *("flop.float64", "flop.float32", "rate.float64", "rate.float32", "byte.memory", "byte.cache", "link", "launch", "static"),
    *("power_limit", "bandwidth.memory", "bandwidth.cache", "capacity.cache", "capacity.core", "launch_seconds"),
    *("utilisation.matmul", "utilisation.conv", "utilisation.attention", "utilisation.recurrent", "utilisation.elementwise"),
)
"""What every profile must hold. Other dtypes are optional: hardware without a unit for one computes it in the next of `WIDER`."""

WIDER = {"float8": "float16", "float16": "float32", "bfloat16": "float32", "int8": "int32", "int32": "float32"}


@dataclass(frozen=True)
class Coefficient:
    """One number in `unit`, believed to lie between `low` and `high` (5 % and 95 %). `provenance` is "prior", "datasheet", "modelled"
    (fitted on a simulated meter) or "measured", `source` the sentence that says where it comes from."""

    value: float
    unit: str
    low: float
    high: float
    provenance: str
    source: str


@dataclass(frozen=True)
class Device:
    """A device profile. `kind` is "cpu" or "cuda", `notes` says what machine and runtime the numbers stand for. `calibration` remembers
    what a calibrated profile was fitted on (`fitted_profile.calibration_record` lists its fields); it is empty for any other. `tf32`:
    whether a runtime multiplies float32 matrices as TF32; it is no part of a profile."""

    name: str
    kind: str
    notes: str
    coefficients: Mapping[str, Coefficient]
    calibration: Mapping[str, Any] = dataclass_field(default_factory=dict)
    tf32: bool = False

    @cached_property
    def values(self) -> dict[str, float]:
        """Coefficient key -> value."""
        return {key: coefficient.value for key, coefficient in self.coefficients.items()}

    @cached_property
    def _resolved(self) -> dict[str, str]:
        return {}

    @cached_property
    def digest(self) -> str:
        """16 hex digits of the SHA-256 of the whole profile: what was counted or measured under another one is not taken up again."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def resolve(self, dtype: str) -> str:
        """The dtype under which this device prices flops of `dtype` ("float16.tensor": by matrix units, if there are any).

        A dtype without a unit of its own is computed in the next wider one, as the hardware would. Raises InputError when none fits.
        """
        found = self._resolved.get(dtype)
        if found is None:
            found = self._resolved[dtype] = self._search(dtype)
        return found

    def _search(self, dtype: str) -> str:
        name, _, unit = dtype.partition(".")
        while name:
            for candidate in ([f"{name}.{unit}"] if unit else []) + [name]:
                if f"flop.{candidate}" in self.coefficients:
                    return candidate
            name = WIDER.get(name, "")
        raise InputError(f"The device profile {self.name} has no coefficient flop.{dtype}; add one, with its rate.{dtype}.")

    def used_by(self, runtime: str) -> Device:
        """The device as a runtime uses it: onnxruntime's CUDA provider multiplies float32 matrices as TF32 unless a session asks for the
        option use_tf32=0 (CUDAExecutionProviderInfo::use_tf32), PyTorch only when it is asked to."""
        return replace(self, tf32=True) if runtime == "onnxruntime" and self.kind == "cuda" else self

    def unit(self, dtype: str) -> tuple[str, float]:
        """(`resolve` of `dtype`, how many operations in that dtype one of `dtype` takes): one, but two in float16 on matrix units for TF32,
        whose rate is half as high (datasheets of A100, H100, H200 and L4); a profile may have a price of its own for it."""
        found = self.resolve(dtype)
        tf32 = self.tf32 and (dtype, found) == ("float32.tensor", "float32") and "flop.float16.tensor" in self.coefficients
        return ("float16.tensor", 2.0) if tf32 else (found, 1.0)

    def value(self, key: str) -> float:
        """The value of one coefficient in its unit. Raises InputError naming the key when the profile lacks it."""
        if key not in self.coefficients:
            raise InputError(f"The device profile {self.name} has no coefficient {key}; add it to the profile.")
        return self.coefficients[key].value

    def with_values(self, values: Mapping[str, float]) -> Device:
        """A copy with other values; each keeps its relative uncertainty. Raises InputError for a key that is not there."""
        changed = dict(self.coefficients)
        for key, value in values.items():
            old = self.value(key)
            ratio = value / old if old else 0.0
            low, high = (self.coefficients[key].low * ratio, self.coefficients[key].high * ratio) if old else (value, value)
            changed[key] = replace(self.coefficients[key], value=value, low=low, high=high)
        return replace(self, coefficients=changed)

    def to_json(self) -> dict[str, Any]:
        """Plain dicts; `device_from_json` is its inverse."""
        data = {"format": FORMAT, **asdict(self)}
        del data["tf32"]
        return data if self.calibration else {key: value for key, value in data.items() if key != "calibration"}


def device_from_json(data: Any, where: str) -> Device:
    """The inverse of `Device.to_json`. `where` names the file in messages. Raises InputError naming the key at fault."""
    if not isinstance(data, dict):
        raise InputError(f"The device profile {where} must be a JSON object with name, kind, notes and coefficients.")
    if data.get("format") != FORMAT:
        raise InputError(f"The device profile {where} has format {data.get('format')!r}; this version reads format {FORMAT}.")
    for field in ("name", "kind", "notes"):
        if not isinstance(data.get(field), str) or not data[field]:
            raise InputError(f"The device profile {where} needs a non-empty text under {field!r}.")
    if data["kind"] not in ("cpu", "cuda"):
        raise InputError(f'The device profile {where} has kind {data["kind"]!r}; it must be "cpu" or "cuda".')
    table = data.get("coefficients")
    if not isinstance(table, dict):
        raise InputError(f"The device profile {where} needs an object under 'coefficients'.")
    coefficients = {key: _coefficient(key, entry, where) for key, entry in table.items()}
    for key in (*REQUIRED, *(f"rate{key[4:]}" for key in coefficients if key.startswith("flop."))):
        if key not in coefficients:
            raise InputError(f"The device profile {where} lacks the coefficient {key}; add it with unit {unit_of(key)}.")
    if coefficients["static"].value >= coefficients["power_limit"].value:
        raise InputError(f"The device profile {where} has a power_limit that static power alone reaches; raise power_limit.")
    calibration = data.get("calibration", {})
    check_calibration(calibration, where)
    return Device(data["name"], data["kind"], data["notes"], coefficients, calibration)


def unit_of(key: str) -> str | None:
    """The unit of a coefficient; None for a key that no profile may hold."""
    if key.startswith("time."):
        return TIME_UNITS.get(key.rpartition(".")[2]) if key.count(".") >= 3 else None
    return UNITS.get(key.partition(".")[0])


def _coefficient(key: str, entry: Any, where: str) -> Coefficient:
    fields = ("value", "unit", "low", "high", "provenance", "source")
    subject = f"The coefficient {key} of the device profile {where}"
    if unit_of(key) is None:
        known = (
            f"time.<runtime>.<kernel> and one of {', '.join(TIME_UNITS)}"
            if key.startswith("time")
            else f"one of {', '.join(UNITS)}"
        )
        raise InputError(f"{subject} is not known; keys start with {known}.")
    if not isinstance(entry, dict) or set(entry) != set(fields):
        raise InputError(f"{subject} must have exactly the fields {', '.join(fields)}.")
    for field in ("value", "low", "high"):
        if isinstance(entry[field], bool) or not isinstance(entry[field], int | float):
            raise InputError(f"{subject} needs a number under {field!r}, not {entry[field]!r}.")
    if not 0 <= entry["low"] <= entry["value"] <= entry["high"] <= sys.float_info.max:
        raise InputError(f"{subject} needs 0 <= low <= value <= high, all finite.")
    if key.partition(".")[0] in ("rate", "bandwidth", "capacity", "utilisation", "power_limit") and entry["low"] == 0:
        raise InputError(f"{subject} must be greater than zero.")
    if entry["unit"] != unit_of(key):
        raise InputError(f"{subject} has unit {entry['unit']!r}; it must be {unit_of(key)!r}.")
    if entry["provenance"] not in PROVENANCES:
        raise InputError(f"{subject} has provenance {entry['provenance']!r}; it must be one of {', '.join(PROVENANCES)}.")
    if not isinstance(entry["source"], str) or not entry["source"].strip():
        raise InputError(f"{subject} needs a sentence under 'source' that says where the number comes from.")
    return Coefficient(**{**entry, **{field: float(entry[field]) for field in ("value", "low", "high")}})


def _folder() -> Path:
    return Path(str(resources.files(__package__))) / "devices"


def device_names() -> tuple[str, ...]:
    """The names of the profiles that come with the package, sorted."""
    return tuple(sorted(path.stem for path in _folder().glob("*.json")))


def load_device(name_or_path: str | Path) -> Device:
    """The profile of that name, or the one in that JSON file. Raises InputError: unknown name, unreadable file, or a bad key."""
    text = str(name_or_path)
    path = _folder() / f"{text}.json" if text in device_names() else Path(text)
    if not os.path.isfile(path):
        raise InputError(f"There is no device {text!r}; choose one of {', '.join(device_names())}, or give a JSON file.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as fault:
        raise InputError(f"The device profile {text} cannot be read as JSON ({fault}).") from fault
    return device_from_json(data, text)
