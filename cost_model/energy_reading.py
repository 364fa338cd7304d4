"""`EnergyReading`: the joules of one call with their interval, how they were had, and what the device's sensors said meanwhile."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from .counter import Sensors
from .energy_window import Window

LEAST_WINDOWS = 5
CONFIDENCE = 0.95
_LOOK_GROWTH = 1.4


@dataclass(frozen=True)
class EnergyLog:
    """How a reading came about. `before` and `after` are the sensors at its first and after its last window, `stopped` is "precise" (the
    interval is as narrow as was asked) or "time limit", `tick` the counter's period [s], `phases` the windows in one sample (8 where
    aliasing threatens), `edge_seconds` the widest bracket of an edge, `cross_check` the mean of sampled power over that of the counter
    (None without samples). `flags` are sentences about what deserves doubt."""

    before: Sensors = field(default_factory=Sensors)
    after: Sensors = field(default_factory=Sensors)
    stopped: str = ""
    tick: float = 0.0
    phases: int = 1
    edge_seconds: float = 0.0
    cross_check: float | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class EnergyReading:
    """Joules of one call [J] in the interval [`low`, `high`] (95 %), of which `static_joules` [J] while the device would have been idle but
    awake (None where that power is not known), and its `seconds` [s].

    `label` is "measured", "modelled" (a simulated counter), "replayed" or "unavailable"; then the joules are None. `reason` is the
    sentence that says what was read, or why nothing was. `windows` are what the interval is made of, in order of time.
    """

    label: str
    reason: str
    joules: float | None = None
    low: float | None = None
    high: float | None = None
    seconds: float | None = None
    static_joules: float | None = None
    windows: tuple[Window, ...] = ()
    log: EnergyLog = field(default_factory=EnergyLog)

    @property
    def half_width(self) -> float | None:
        """Half the interval as a share of the joules; None where there are none."""
        if self.joules is None or self.low is None or self.high is None:
            return None
        return (self.high - self.low) / 2.0 / self.joules


def mean_interval(samples: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """(mean, low, high) of `samples`: Student's t interval, for samples that scatter as a normal distribution does.

    Raises ValueError for fewer than two samples.
    """
    if len(samples) < 2:
        raise ValueError(f"an interval needs at least two samples, got {len(samples)}")
    from scipy.special import stdtrit  # importing scipy.special takes 0.3 s, and most runs have no counter

    mean = statistics.fmean(samples)
    half = float(stdtrit(len(samples) - 1, (1.0 + confidence) / 2.0)) * statistics.stdev(samples) / math.sqrt(len(samples))
    return mean, mean - half, mean + half


def next_look(windows: int) -> int:
    """After how many windows the interval is looked at again: 5, 7, 10, 14, 20 and so on."""
    return max(LEAST_WINDOWS, math.ceil(windows * _LOOK_GROWTH))


def look_confidence(look: int) -> float:
    """The confidence of the interval at the look number `look`, from 0: each look spends half of what is left of the 5 %.

    To look often and stop at the first narrow interval makes that one too narrow: a stop rule with plain 95 % intervals misses the truth
    more often than one time in twenty. Here the chances of all looks to miss add up to 5 % at most, whichever look is the last.
    """
    return 1.0 - (1.0 - CONFIDENCE) / 2.0 ** (look + 1)


def confidence_after(windows: int) -> float:
    """`look_confidence` of the look at which so many windows end a session: the next due, where time was up before it."""
    look, due = 0, LEAST_WINDOWS
    while due < windows:
        look, due = look + 1, next_look(due)
    return look_confidence(look)


def with_sensor_error(low: float, high: float, error: float) -> tuple[float, float]:
    """[`low`, `high`], of joules by this sensor, widened to joules by a perfect one: the sensor reads between 1 - `error` and 1 + `error`
    times the truth."""
    return low / (1.0 + error), high / (1.0 - error)
