"""Joules of a model as it is: every op priced, floors beside it, nothing rewritten and no GPU needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..cost_model.collection import collection_paused
from ..cost_model.cost import LABELS, Cost
from ..cost_model.device import Device, load_device
from ..cost_model.errors import InputError
from ..cost_model.net import Op
from ..cost_model.plan import Phase
from ..cost_model.provenance import provenance_shares
from .as_run import as_run
from .backend import Backend
from .backend_onnx import OnnxBackend
from .load import load
from .prediction import Prediction
from .workload import described, sample_shapes, workload_for

FORMAT = 1


def estimate(
    model: Any,
    sample: Any = None,
    *,
    target: str | Path = "cpu",
    workload: Any = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    strict: bool = False,
    task: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Price `model` on `target`, per call of the workload: {"total", "ops", "at_least", "unpriced", "phases", ...} in J, s and B.

    "phases" has the total and the rows of each phase by itself; one with a context is priced as it decodes (see `decode_phase`).
    Joules and seconds are modelled from the profile's coefficients (labels say so); "provenance" is the share of the joules that rests on
    prior coefficients, on measured ones and so on. "bytes" are compulsory, "memory_bytes" and "cache_bytes" what the best tiling moves
    past the last cache, and between it and the cores. An op that cannot be priced is kept at its
    compulsory bytes and named in "unpriced", and "at_least" is True; with `strict` that is an InputError. `shapes`: see `load`.
    """
    device = load_device(target)
    loaded = load(model, task=task, shapes=shapes or sample_shapes(workload), sample=sample)
    program = loaded.program
    asked = workload_for(program, workload or loaded.workload)
    backend: Backend
    if program.runtime == "torch":
        from .backend_torch import TorchBackend

        backend = TorchBackend(program)
    else:
        backend = OnnxBackend(program.sample)
    prices = as_run(program, backend, device, program.graph)
    notes = [*program.notes, *loaded.notes, *prices.notes]

    def priced(phase: Phase) -> Prediction:
        progress(f"pricing {phase.name}")
        found = prices.prediction(phase)
        notes.extend(found.notes)
        return found

    with collection_paused():
        found = _summed(asked.phases, priced, device)
    unpriced = found["unpriced"]
    if strict and unpriced:
        named = ", ".join(unpriced[:5]) + (" ..." if len(unpriced) > 5 else "")
        raise InputError(f"{len(unpriced)} operators have no price ({named}); drop --strict to see a lower limit.")
    return {
        "format": FORMAT,
        "model": program.source,
        "target": device.name,
        "workload": [described(phase) for phase in asked.phases],
        **found,
        "notes": list(dict.fromkeys(notes)),
    }


def _summed(phases: Sequence[Phase], priced: Callable[[Phase], Prediction], device: Device) -> dict[str, Any]:
    """Phases priced one after the other, and their sum by weight: what the result says of joules. The label of a sum is that of its least
    certain part."""
    rows: dict[str, dict[str, Any]] = {}
    apart: list[dict[str, Any]] = []
    parts: list[tuple[float, Cost]] = []
    total: dict[str, Any] = {}
    unpriced: dict[str, None] = {}
    label = LABELS[0]
    for phase in phases:
        found = priced(phase)
        label = _worse(label, found.total.label)
        unpriced.update(dict.fromkeys(found.total.unpriced))
        parts.append((phase.weight, found.total))
        _add(total, found.total, phase.weight)
        for name, cost in found.ops.items():
            row = rows.get(name)
            if row is None:
                row = rows[name] = _row(found.net.ops[name], cost)
            row["label"] = _worse(row["label"], cost.label)
            _add(row, cost, phase.weight)
        apart.append(_phase(phase, found))
    whole = total.get("joules", 0.0)
    return {
        "total": {**total, "label": label},
        "label": "modelled",
        "provenance": provenance_shares(parts, device),
        "at_least": bool(unpriced),
        "unpriced": list(unpriced),
        "ops": [{**row, "share": row["joules"] / whole if whole else 0.0} for row in rows.values()],
        "phases": apart,
    }


def _worse(one: str, other: str) -> str:
    """The less certain of two labels of seconds."""
    return max(one, other, key=LABELS.index)


def _phase(phase: Phase, priced: Prediction) -> dict[str, Any]:
    """One phase by itself, per call of it."""
    found = {"name": phase.name, "context": phase.context, "weight": phase.weight, "at_least": priced.total.at_least}
    total: dict[str, Any] = {}
    _add(total, priced.total, 1.0)
    ops: list[dict[str, Any]] = []
    for name, cost in priced.ops.items():
        ops.append({"id": name})
        _add(ops[-1], cost, 1.0)
    return {**found, "total": {**total, "label": priced.total.label}, "ops": ops}


def _row(op: Op, cost: Cost) -> dict[str, Any]:
    return {"id": op.id, "kind": op.kind, "target": op.target, "origin": op.origin, "label": cost.label}


def _add(row: dict[str, Any], cost: Cost, weight: float) -> None:
    """Add one phase's share of a cost to a row."""
    for key, value in (
        ("joules", cost.joules),
        ("seconds", cost.seconds),
        ("flops", cost.flops),
        ("bytes", cost.bytes),
        ("memory_bytes", cost.bytes_by_level.get("memory", 0.0)),
        ("cache_bytes", cost.bytes_by_level.get("cache", 0.0)),
        ("io_bytes", cost.io_bytes),
        ("landauer_joules", cost.landauer),
    ):
        row[key] = row.get(key, 0.0) + weight * value
