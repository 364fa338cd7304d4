"""The sensor stage: what the card's counter is worth before anything is fitted on it. Each part is kept once it is found."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from ..cost_model.counter import CounterFault
from ..cost_model.device import Device
from ..cost_model.energy_session import Effort
from ..cost_model.idle_states import IdleStates
from ..cost_model.joule_design import Point, joule_points
from ..cost_model.sensor_checks import square_wave, tick_histogram
from ..cost_model.whole_file import write_whole
from ..rewriter.energy_case import Bench, EnergyCase, Run, seconds_of
from ..rewriter.json_text import json_text, plain
from ..rewriter.microbenchmarks_cuda import point_case

EFFORT = Effort(half_width=0.01, least_seconds=2.0, most_seconds=15.0, warm_seconds=2.0, settle_seconds=1.0)


class IdleBench(Bench, Protocol):
    """A bench that can also rest."""

    def idle(self) -> IdleStates:
        """The power of the card's three idle states."""
        ...


def sensors(bench: IdleBench, profile: Device, out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """All parts by name. A part that the card does not allow has a "reason" instead. Those that the file `out` holds for this card, driver,
    meter and profile are not measured again, except those that failed: another process or heat may have gone."""
    stamp = {
        "device": bench.device,
        "driver": bench.driver,
        "profile": profile.digest,
        "label": bench.meter.status,
        "meter": bench.meter.reason,
    }
    found = _kept(out, stamp) or {**stamp, "parts": {}}
    write_whole(out, json_text(found))
    product, copy = _largest(profile, "matmul", "bfloat16"), _largest(profile, "neg", "float32")

    def busy() -> Run:
        return bench.open(point_case(replace(product, repeats=1)))

    parts: dict[str, Callable[[], Any]] = {
        # Idle comes first: once a context is open there is no deep idle.
        "idle": lambda: plain(bench.idle()),
        "support": lambda: support(bench),
        "ticks at rest": lambda: ticks(bench, None),
        "ticks at work": lambda: ticks(bench, busy()),
        "square wave": lambda: wave(bench, busy()),
        "copy in memory": lambda: power(bench, [point_case(copy)], profile),
        "products of random numbers and zeros": lambda: power(
            bench, [point_case(product), point_case(product, zeros=True)], profile
        ),
    }
    for name, measure in parts.items():
        if name in found["parts"] and not (bench.meter.counter and _failed(found["parts"][name])):
            continue
        say(name)
        try:
            found["parts"][name] = measure() if bench.meter.counter or name in _COUNTERLESS else {"reason": bench.meter.reason}
        except (CounterFault, ValueError, RuntimeError) as fault:
            found["parts"][name] = {"reason": str(fault)}
        bench.release()
        write_whole(out, json_text(found))
    return found


_COUNTERLESS = ("idle", "support", "copy in memory", "products of random numbers and zeros")


def support(bench: Bench) -> dict[str, Any]:
    """Which sensors the card has, and whether it is in a state to be measured."""
    counter = bench.meter.counter
    if counter is None:
        return {"reason": bench.meter.reason}
    read = counter.sensors()
    return {
        "counter": counter.where,
        "power sample [W]": counter.watts(),
        **plain(read),
        "memory power": memory_power(bench.device) if bench.meter.status == "measured" else "not simulated",
    }


def memory_power(device: str) -> Any:
    """The power of the memory alone [W], of the first card of that name, where NVML has that field (scope MEMORY); else the reason."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        handle = next(handle for handle in handles if _name(pynvml.nvmlDeviceGetName(handle)) == device)
        (found,) = pynvml.nvmlDeviceGetFieldValues(handle, [(pynvml.NVML_FI_DEV_POWER_INSTANT, pynvml.NVML_POWER_SCOPE_MEMORY)])
    except Exception as fault:  # NVML's errors, an older binding without the scope, no card of that name
        return f"no such field ({type(fault).__name__}: {fault})"
    return found.value.uiVal / 1e3 if found.nvmlReturn == 0 else f"no such field (NVML error {found.nvmlReturn})"


def ticks(bench: Bench, run: Run | None) -> dict[str, Any]:
    """How often the counter ticks, in milliseconds."""
    counter = bench.meter.counter
    assert counter is not None
    found = tick_histogram(counter, bench.meter.clock, _waited(bench, run) if run else None)
    return {
        "period [s]": found.period,
        "step [J]": found.step,
        "read [s]": found.read_seconds,
        "milliseconds": found.milliseconds(),
    }


def wave(bench: Bench, run: Run) -> dict[str, Any]:
    """Whether the counter integrates all of the time: half work, half rest, at eight phases of its tick."""
    counter = bench.meter.counter
    assert counter is not None
    found = square_wave(counter, bench.meter.clock, run, bench.synchronise)
    return {**plain(found), "ratio": found.ratio, "contrast": found.contrast, "verdict": found.verdict}


def power(bench: Bench, cases: list[EnergyCase], profile: Device) -> dict[str, Any]:
    """Seconds, joules, watts and speed of each case, all in one session."""
    runs = {case.config: bench.open(case) for case in cases}
    readings = bench.meter.energies(runs, synchronise=bench.synchronise, **vars(EFFORT))
    found = {}
    for case in cases:
        reading, work = readings[case.config], case.work(profile)
        seconds = seconds_of(reading, runs[case.config], bench)
        flops = sum(amount for key, amount in work.items() if key.startswith("flop."))
        found[case.config] = {
            "label": reading.label,
            "reason": reading.reason,
            "seconds": seconds.value,
            "joules": reading.joules,
            "half_width": reading.half_width,
            "watts": None if reading.joules is None else reading.joules / seconds.value,
            "flop/s": flops / seconds.value,
            "B/s past the cache": work.get("byte.memory", 0.0) / seconds.value,
            "cross_check": reading.log.cross_check,
            "flags": list(reading.log.flags),
        }
    return found


def _waited(bench: Bench, run: Run) -> Run:
    def call() -> None:
        run()
        bench.synchronise()

    return call


def _largest(profile: Device, operator: str, dtype: str) -> Point:
    found = [point for point in joule_points(profile) if (point.operator, point.dtype) == (operator, dtype) and not point.pause]
    return max(found, key=lambda point: point.cost(profile).seconds)


def _name(found: Any) -> str:
    return found.decode() if isinstance(found, bytes) else str(found)


def _failed(part: Mapping[str, Any]) -> bool:
    """A part, or one of the cases in it, that has a reason in place of readings."""
    cases = [part, *(case for case in part.values() if isinstance(case, dict))]
    return any("reason" in case and case.get("label", "unavailable") == "unavailable" for case in cases)


def _kept(out: Path, stamp: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        data = json.loads(out.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = isinstance(data, dict) and all(data.get(key) == value for key, value in stamp.items())
    return data if same and isinstance(data.get("parts"), dict) else None
