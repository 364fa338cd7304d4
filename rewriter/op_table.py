"""Ops of one call, predicted beside measured: each by itself, and by class. Errors of ops cancel in the whole, so both are stated."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ..cost_model.cost import LABELS, total_cost
from ..cost_model.measurement import work_of
from ..cost_model.price import with_seconds
from .op_times import OpTimes
from .prediction import Prediction

RESOLUTION = 1e-6
"""The step of the profilers' clocks [s]."""


def op_rows(prediction: Prediction, times: OpTimes) -> list[dict[str, Any]]:
    """One row for each op that has a measured time, in the order of the net: {"id", "kind", "kernel", "target", "predicted", "label",
    "measured", "low", "high", "error", "joules_predicted", "joules_modelled"} in s and J.

    "error" is predicted over measured, less one; None for an op that lasts no longer than the clock adds to it.
    """
    rows = []
    for op in prediction.net.ops.values():
        if op.id not in times.samples:
            continue
        cost, timing = prediction.ops[op.id], times.timing([op.id])
        measured = max(0.0, timing.median)
        rows.append(
            {
                "id": op.id,
                "kind": op.kind,
                "kernel": prediction.kernels[op.id],
                "target": op.target,
                "predicted": cost.seconds,
                "label": cost.label,
                "measured": measured,
                "low": max(0.0, timing.low),
                "high": max(0.0, timing.high),
                "error": cost.seconds / measured - 1 if measured > max(times.added, RESOLUTION) else None,
                "joules_predicted": cost.joules,
                "joules_modelled": with_seconds(cost, prediction.device, measured).joules,
            }
        )
    return rows


def class_rows(prediction: Prediction, times: OpTimes) -> list[dict[str, Any]]:
    """One row for each kind of op, the longest first: as `op_rows`, with "ops" (how many), "share" of the measured seconds of all ops,
    and "work" by coefficient key. "label" is the worst of its ops."""
    members: dict[str, list[str]] = {}
    for op in prediction.net.ops.values():
        if op.id in times.samples:
            members.setdefault(op.kind, []).append(op.id)
    rows = []
    whole = sum(max(0.0, times.timing(ops).median) for ops in members.values())
    for kind, ops in members.items():
        cost, timing = total_cost(prediction.ops[op] for op in ops), times.timing(ops)
        measured = max(0.0, timing.median)
        rows.append(
            {
                "kind": kind,
                "ops": len(ops),
                "predicted": cost.seconds,
                "label": max((prediction.ops[op].label for op in ops), key=LABELS.index),
                "measured": measured,
                "low": max(0.0, timing.low),
                "high": max(0.0, timing.high),
                "share": measured / whole if whole else 0.0,
                "error": cost.seconds / measured - 1 if measured > len(ops) * max(times.added, RESOLUTION) else None,
                "joules_predicted": cost.joules,
                "joules_modelled": with_seconds(cost, prediction.device, measured).joules,
                "work": work_of(cost),
            }
        )
    return sorted(rows, key=lambda row: -row["measured"])


def op_summary(times: OpTimes, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """{"ops", "judged", "judged_share", "median_error" of |error| over the judged ops, "sum" and "predicted" [s] of all ops, "error" of
    that sum, "added" [s] that the clock adds to an op and that was taken off, "how", "calls"}."""
    judged = [row for row in rows if row["error"] is not None]
    measured = sum(row["measured"] for row in rows)
    total, predicted = times.timing([row["id"] for row in rows]).median if rows else 0.0, sum(row["predicted"] for row in rows)
    return {
        "ops": len(rows),
        "judged": len(judged),
        "judged_share": sum(row["measured"] for row in judged) / measured if measured else 0.0,
        "median_error": statistics.median(abs(row["error"]) for row in judged) if judged else None,
        "sum": total,
        "predicted": predicted,
        "error": predicted / total - 1 if total > 0 else None,
        "added": times.added,
        "how": times.how,
        "calls": len(next(iter(times.samples.values()), ())),
    }
