"""measurements.csv: what `measure` found as rows for `szilard validate-model` and for a fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..cost_model.measurement import Measurement, throttle_text, write_measurements
from ..cost_model.whole_file import check_place
from .folder import is_emitted

FILE = "measurements.csv"
_ADVICE = "name another file with --csv"
WHOLE_CALLS = "A counter sees whole calls, not the ops in them."


def measured_rows(result: Mapping[str, Any], family: str) -> tuple[Measurement, ...]:
    """One "model" row for each run of `result`, then one "class" row for each class of its ops that took any time.

    Joules are in only where a meter read them: those priced from measured seconds would judge a profile by itself. The prediction is the
    profile's. In a result with two models the second is rewritten from the first.
    """
    rows: list[Measurement] = []
    originals = {run["workload"]: run["config"] for run in reversed(result["runs"])} if result["differences"] else {}
    for run in result["runs"]:
        before = originals.get(run["workload"], run["config"])
        seconds, joules = run["seconds"], run["joules"]
        log = joules.get("log", {})
        machine = {
            **{name: log.get(name) for name in ("temperature", "clock", "power_limit")},
            "throttle": throttle_text(log.get("throttle", ())),
            "device": log.get("device") or result["machine"],
            "driver": log.get("driver", ""),
        }
        rows.append(
            Measurement(
                config=run["config"],
                family=family,
                scope="model",
                work=run["work"],
                seconds=seconds["measured"],
                seconds_low=seconds["low"],
                seconds_high=seconds["high"],
                joules=joules["measured"],
                joules_low=joules["low"],
                joules_high=joules["high"],
                label="unavailable" if joules["measured"] is None else joules["label"],
                predicted_seconds=seconds["from_profile"]["value"],
                predicted_joules=joules["from_profile"]["value"],
                rewritten_from="" if before == run["config"] else before,
                reason=joules.get("unavailable", joules.get("reason", "")),
                **machine,
            )
        )
        rows += [_class_row(run, each, family, machine) for each in run["classes"] if each["measured"] > 0]
    return tuple(rows)


def csv_path(spec: str, asked: Path | None) -> Path | None:
    """Where the rows of a model go: the file that was asked for, measurements.csv in a folder that Szilard wrote, else nowhere."""
    if asked is not None:
        return asked
    return Path(spec) / FILE if is_emitted(Path(spec)) else None


def check_csv(path: Path) -> None:
    """Raises InputError where `save_rows` would; call it before long work."""
    check_place(path, _ADVICE)


def save_rows(path: Path, rows: tuple[Measurement, ...]) -> None:
    """Write measurements.csv in one rename. Raises InputError where the place takes no file."""
    write_measurements(path, rows, _ADVICE)


def _class_row(run: Mapping[str, Any], each: Mapping[str, Any], family: str, machine: Mapping[str, Any]) -> Measurement:
    return Measurement(
        config=f"{run['config']} {each['kind']}",
        family=family,
        scope="class",
        work=each["work"],
        seconds=each["measured"],
        seconds_low=each["low"],
        seconds_high=each["high"],
        joules=None,
        joules_low=None,
        joules_high=None,
        label="unavailable",
        predicted_seconds=each["predicted"] or None,
        predicted_joules=each["joules_predicted"] or None,
        reason=WHOLE_CALLS,
        **machine,
    )
