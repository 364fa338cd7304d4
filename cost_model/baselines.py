"""What a cost model must beat: TDP x time, mean power x time, flops only, a x flops + b x bytes, and for seconds a roofline.

Each gets what the model gets: the same rows to be fitted on, and measured seconds where it uses time. Which errors a fit should make small
is not obvious where costs span five decades, and decides how good the baseline is. So each is fitted twice, and the better one judges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.optimize import least_squares, linprog

from .device import Device
from .errors import InputError
from .measurement import Measurement

TDP = "TDP x time"
MEAN_POWER = "mean power x time"
FLOPS = "flops only"
FLOPS_AND_BYTES = "a x flops + b x bytes"
ROOFLINE = "roofline"
NAMES = (TDP, MEAN_POWER, FLOPS, FLOPS_AND_BYTES)
"""The baselines of joules; those of seconds are the ones without power, and the roofline."""

LOG = ", by ratios"
"""What the name of a baseline ends with when ratios of predicted and measured were made small, instead of relative errors."""

_FEATURES = {MEAN_POWER: ("seconds",), FLOPS: ("flops",), FLOPS_AND_BYTES: ("flops", "bytes")}
_SMALL = 0.1

Baselines = dict[str, dict[str, float]]
"""Name of a baseline -> feature -> what one unit of it costs [J or s]; its prediction is their sum."""


def features(row: Measurement) -> dict[str, float]:
    """What the baselines know of a row: "seconds" [s], "flops" of any dtype, and "bytes" [B] of any level and link."""
    return {
        "seconds": row.seconds,
        "flops": sum(amount for key, amount in row.work.items() if key.startswith("flop.")),
        "bytes": sum(amount for key, amount in row.work.items() if key.startswith("byte.") or key == "link"),
    }


def fit_baselines(rows: Sequence[Measurement]) -> dict[str, Baselines]:
    """ "joules" and "seconds" -> the baselines fitted on the rows that have them; empty where none has. Plain data, so that a profile
    can remember them. Seconds have no power baselines.

    Each is there under its name, with the least mean size of relative errors (the MAPE that it is judged by), and under its name and
    `LOG`, with the least mean size of log(predicted / observed), nearly: a relative error is never worse than -100 %, so that the
    first leans to predicting next to nothing.
    """
    found: dict[str, Baselines] = {"joules": {}, "seconds": {}}
    for quantity, baselines in found.items():
        used = [row for row in rows if getattr(row, quantity) is not None]
        for name, wanted in _FEATURES.items():
            if used and (quantity == "joules" or "seconds" not in wanted):
                observed = np.array([getattr(row, quantity) for row in used])
                relative = np.array([[features(row)[feature] for feature in wanted] for row in used]) / observed[:, None]
                for ending, solve in (("", _least_relative), (LOG, _least_ratios)):
                    baselines[name + ending] = dict(zip(wanted, _scaled(solve, relative), strict=True))
    return found


def fits_of(baselines: Mapping[str, Mapping[str, float]]) -> dict[str, list[Mapping[str, float]]]:
    """Name of a baseline -> all its fits."""
    found: dict[str, list[Mapping[str, float]]] = {}
    for name, baseline in baselines.items():
        found.setdefault(name.removesuffix(LOG), []).append(baseline)
    return found


def tdp_baseline(device: Device) -> dict[str, float]:
    """TDP x time: the power limit of the profile [W] for every second; nothing is fitted."""
    return {"seconds": device.value("power_limit")}


def predict(baseline: Mapping[str, float], row: Measurement) -> float:
    """What one baseline says a row costs [J or s]."""
    known = features(row)
    return sum(value * known[feature] for feature, value in baseline.items())


def roofline(device: Device, row: Measurement) -> float | None:
    """What the rates and bandwidths of a profile say a row takes [s], with nothing fitted: the longest of its arithmetic at peak and of
    its traffic at each level, and the launches. None for a dtype that the profile has no rate for."""
    work, value = row.work, device.value
    flops = {key.removeprefix("flop."): amount for key, amount in work.items() if key.startswith("flop.")}
    try:
        arithmetic = sum(amount / value(f"rate.{device.resolve(dtype)}") for dtype, amount in flops.items())
    except InputError:
        return None
    moved = [work.get(f"byte.{level}", 0.0) / value(f"bandwidth.{level}") for level in ("memory", "cache")]
    return max(arithmetic, *moved) + work.get("launch", 0.0) * value("launch_seconds")


def _scaled(solve: Callable[[np.ndarray], np.ndarray], relative: np.ndarray) -> list[float]:
    """`solve` for `relative` [rows, features] with columns of one size; a feature that no row has costs nothing."""
    size = np.abs(relative).max(axis=0)
    known = size > 0
    found = np.zeros(len(size))
    if known.any():
        found[known] = solve(relative[:, known] / size[known]) / size[known]
    return found.tolist()


def _least_relative(relative: np.ndarray) -> np.ndarray:
    """c >= 0 with the least sum of |relative c - 1|, by linear programming."""
    count, kinds = relative.shape
    over, ones = np.eye(count), np.ones(count)
    sides = np.block([[relative, -over], [-relative, -over]])
    return linprog(np.r_[np.zeros(kinds), ones], A_ub=sides, b_ub=np.r_[ones, -ones]).x[:kinds]


def _least_ratios(relative: np.ndarray) -> np.ndarray:
    """c > 0 with the least sum of |log(relative c)|, rounded off below `_SMALL`; rows without any of the features say nothing."""
    rows = relative[relative.any(axis=1)]
    share = np.array([1.0 / np.median(column[column > 0]) for column in rows.T]) / rows.shape[1]
    return np.exp(least_squares(lambda c: np.log(rows @ np.exp(c)), np.log(share), loss="soft_l1", f_scale=_SMALL).x)
