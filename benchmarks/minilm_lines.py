"""What the frontier of MiniLM on onnxruntime's CPU provider has to reach, and whether one run reached it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..cost_model.timing import ratio_interval

FP32, NBITS = "fp32", "MatMulNBits 8, level 4"
EVERY_CASE = ("1x16", "1x128", "8x128", "1x512")


@dataclass(frozen=True)
class Line:
    """The point with a mean cosine of at least `cosine` (on long texts too, if `long`) takes at most `must`, better `goal`, of the time of
    `against` at the `cases`. `against` "" stands for the fastest file with int8 activations that another tool made."""

    cosine: float
    long: bool
    against: str
    must: float
    goal: float
    cases: tuple[str, ...]


LINES = (
    Line(0.9985, False, "", 0.92, 0.85, EVERY_CASE),
    Line(0.999, True, FP32, 0.43, 0.38, ("1x128", "8x128")),
    Line(0.9996, False, NBITS, 0.70, 0.70, EVERY_CASE),
)


@dataclass(frozen=True)
class Judged:
    """A line at one case: the one `file` of ours that meets its cosine in the least time over all its cases ("" where none meets it), the
    file it is held `against`, the median `ratio` of their times with its interval, and the `verdict`: "goal", "met" or "missed"."""

    line: Line
    case: str
    file: str
    against: str
    ratio: tuple[float, float, float]
    verdict: str


def judge(
    seconds: Mapping[str, Mapping[str, Sequence[float]]],
    quality: Mapping[str, Mapping[str, float]],
    ours: Sequence[str],
    int8_peers: Sequence[str],
) -> list[Judged]:
    """Every line at each of its cases. `seconds`: case -> file -> times of the rounds; `quality`: file -> "cosine", "cosine_long"."""
    found = []
    for line in LINES:
        able = [name for name in ours if _good(quality[name], line)]
        file = min(able, key=lambda name: sum(_share(seconds[case], name) for case in line.cases), default="")
        for case in line.cases:
            times = seconds[case]
            against = line.against or min(int8_peers, key=lambda name: statistics.median(times[name]))
            ratio = ratio_interval(times[file], times[against]) if file else (math.inf, math.inf, math.inf)
            verdict = "goal" if ratio[0] <= line.goal else "met" if ratio[0] <= line.must else "missed"
            found.append(Judged(line, case, file, against, ratio, verdict))
    return found


def rows(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """The same for JSON and for a table."""
    return [
        {
            "cosine": each.line.cosine,
            "long": each.line.long,
            "case": each.case,
            "file": each.file,
            "against": each.against,
            "ratio": None if not each.file else dict(zip(("median", "low", "high"), each.ratio, strict=True)),
            "must": each.line.must,
            "goal": each.line.goal,
            "verdict": each.verdict,
        }
        for each in judged
    ]


def _good(quality: Mapping[str, float], line: Line) -> bool:
    return quality["cosine"] >= line.cosine and (not line.long or quality["cosine_long"] >= line.cosine)


def _share(times: Mapping[str, Sequence[float]], name: str) -> float:
    return statistics.median(times[name]) / statistics.median(times[FP32])
