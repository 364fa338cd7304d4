"""`ReplayedMeter`: joules that were measured elsewhere and recorded, looked up by the name of the load. It runs nothing."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .counter import Sensors
from .energy_reading import EnergyLog, EnergyReading
from .energy_session import static_joules
from .measurement import Measurement, read_measurements, throttle_reasons
from .meter import Meter

_LISTED = 3


class ReplayedMeter(Meter):
    """The readings recorded in a CSV of measurements at `path`. A load's name is its row's `config`; rows with one config are repeats.

    Joules that a counter measured are "replayed". A recording of modelled joules stays "modelled": to be on disk makes nothing measured.
    Raises InputError for a file that cannot be used.
    """

    def __init__(self, path: str | Path) -> None:
        rows = read_measurements(path)
        labels = {_label(row) for row in rows if row.joules is not None}
        status = "unavailable" if not labels else "modelled" if "modelled" in labels else "replayed"
        devices = sorted({row.device for row in rows if row.device and row.joules is not None})
        of = f", of {', '.join(devices)}" if devices else ""
        nothing = f"No energy counter was at hand for any row of {path}; joules are modelled."
        super().__init__(status, f"Joules are those recorded in {path}{of}." if labels else nothing)
        object.__setattr__(self, "_rows", rows)
        object.__setattr__(self, "_path", path)

    _rows: tuple[Measurement, ...]
    _path: str | Path

    def energies(
        self, runs: Mapping[str, Callable[[], object]], *, idle_watts: float | None = None, **effort: Any
    ) -> dict[str, EnergyReading]:
        """The recorded reading of each name of `runs`, which are not called: a name that was not recorded is "unavailable". Other options
        have no meaning for a recording."""
        return {name: self._reading(name, idle_watts) for name in runs}

    def _absent(self, name: str) -> str:
        known = list(dict.fromkeys(row.config for row in self._rows if row.joules is not None))
        others = f"{', '.join(known[:_LISTED])}{f' and {len(known) - _LISTED} more' if len(known) > _LISTED else ''}"
        return f"{self._path} has no row with the config {name!r}; it has joules of {others or 'none'}."

    def _reading(self, name: str, idle_watts: float | None) -> EnergyReading:
        rows = [row for row in self._rows if row.config == name]
        counted = [row for row in rows if row.joules is not None]
        if not counted:
            reason = rows[0].reason if rows else self._absent(name)
            return EnergyReading("unavailable", reason or self.reason)
        seconds = statistics.fmean(row.seconds for row in counted)
        return EnergyReading(
            label=max(map(_label, counted), key=("replayed", "modelled").index),
            reason=self.reason,
            joules=statistics.fmean(row.joules for row in counted if row.joules is not None),
            low=min(row.joules_low for row in counted if row.joules_low is not None),
            high=max(row.joules_high for row in counted if row.joules_high is not None),
            seconds=seconds,
            static_joules=static_joules(idle_watts, seconds),
            log=_log(counted),
        )


def _label(row: Measurement) -> str:
    return "modelled" if row.label == "modelled" else "replayed"


def _log(rows: Sequence[Measurement]) -> EnergyLog:
    before, after = (
        Sensors(
            temperature=row.temperature,
            clock=row.clock,
            power_limit=row.power_limit,
            throttle=throttle_reasons(row.throttle),
            device=row.device,
            driver=row.driver,
        )
        for row in (rows[0], rows[-1])
    )
    return EnergyLog(before=before, after=after)
