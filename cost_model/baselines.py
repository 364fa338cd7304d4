"""What a cost model must beat: TDP x time, mean power x time, flops only, and a x flops + b x bytes.

Each gets what the model gets: the same rows to be fitted on, the same relative error to minimise, and measured seconds where it uses time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import nnls

from .device import Device
from .measurement import Measurement

TDP = "TDP x time"
MEAN_POWER = "mean power x time"
FLOPS = "flops only"
FLOPS_AND_BYTES = "a x flops + b x bytes"
NAMES = (TDP, MEAN_POWER, FLOPS, FLOPS_AND_BYTES)

_FEATURES = {MEAN_POWER: ("seconds",), FLOPS: ("flops",), FLOPS_AND_BYTES: ("flops", "bytes")}

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
    can remember them. Seconds have no power baselines."""
    found: dict[str, Baselines] = {"joules": {}, "seconds": {}}
    for quantity, baselines in found.items():
        used = [row for row in rows if getattr(row, quantity) is not None]
        for name, wanted in _FEATURES.items():
            if used and (quantity == "joules" or "seconds" not in wanted):
                observed = np.array([getattr(row, quantity) for row in used])
                matrix = np.array([[features(row)[feature] for feature in wanted] for row in used]) / observed[:, None]
                length = np.linalg.norm(matrix, axis=0)
                length[length == 0] = 1.0
                solved = nnls(matrix / length, np.ones(len(used)))[0] / length
                baselines[name] = dict(zip(wanted, solved.tolist(), strict=True))
    return found


def tdp_baseline(device: Device) -> dict[str, float]:
    """TDP x time: the power limit of the profile [W] for every second; nothing is fitted."""
    return {"seconds": device.value("power_limit")}


def predict(baseline: Mapping[str, float], row: Measurement) -> float:
    """What one baseline says a row costs [J or s]."""
    known = features(row)
    return sum(value * known[feature] for feature, value in baseline.items())
