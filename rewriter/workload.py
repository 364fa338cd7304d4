"""Workloads from what a user types: `--shape 1x128:0.5`, `--workload FILE`, or the sample itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..cost_model.errors import InputError
from ..cost_model.plan import Phase, Workload
from ..cost_model.program import Program


def workload_for(program: Program, request: Any = None) -> Workload:
    """The workload that `request` asks for: a Workload, a path to a JSON file, a list of `--shape` texts, or None for the
    sample's own shapes. Raises InputError where a shape does not fit the inputs or an axis that the trace fixed."""
    if request is None or (isinstance(request, (list, tuple)) and not request):
        shapes = {name: tuple(program.sample[name].shape) for name in program.inputs}
        return Workload((Phase(_name(shapes), shapes),))
    if isinstance(request, Workload):
        phases = request.phases
    elif isinstance(request, (str, Path)) and Path(request).suffix == ".json":
        phases = _read(Path(request))
    else:
        texts = [request] if isinstance(request, str) else list(request)
        phases = tuple(parse_shape(text, program) for text in texts)
    return Workload(tuple(_complete(phase, program) for phase in phases))


def parse_shape(text: str, program: Program) -> Phase:
    """One `--shape`: "input_ids=1x128,attention_mask=1x128:0.5", or a bare "1x128:0.5" for every input of that rank."""
    body, _, weight_text = text.partition(":")
    try:
        weight = float(weight_text) if weight_text else 1.0
        shapes: dict[str, tuple[int, ...]] = {}
        for part in body.split(","):
            name, _, dims_text = part.rpartition("=")
            dims = tuple(int(d) for d in dims_text.lower().split("x"))
            if any(d <= 0 for d in dims):
                raise ValueError(f"dimension in {dims_text!r} is not positive")
            targets = [name] if name else [n for n in program.inputs if program.sample[n].ndim == len(dims)]
            if not targets:
                raise ValueError(f"no input has rank {len(dims)}")
            shapes.update(dict.fromkeys(targets, dims))
    except ValueError as fault:
        raise InputError(f"--shape {text!r} cannot be read ({fault}); write input=1x128 or input=1x128:weight.") from fault
    return Phase(_name(shapes), shapes, weight)


def _read(path: Path) -> tuple[Phase, ...]:
    try:
        rows = json.loads(path.read_text())
        return tuple(
            Phase(r.get("name") or _name(r["shapes"]), {k: tuple(v) for k, v in r["shapes"].items()}, float(r.get("weight", 1)))
            for r in rows
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
        raise InputError(
            f'Workload file {path} cannot be read ({fault}); it holds a JSON list of {{"name", "shapes": {{input: [dims]}}, "weight"}}.'
        ) from fault


def _complete(phase: Phase, program: Program) -> Phase:
    """Shapes of every input: those given, checked, and for the rest the sample's with the symbols that the given ones bind."""
    unknown = sorted(set(phase.shapes) - set(program.inputs))
    if unknown:
        raise InputError(
            f"Workload shape {phase.name} names {unknown}, which the model does not read; its inputs are {list(program.inputs)}."
        )
    bound: dict[str, int] = {}
    for name, dims in phase.shapes.items():
        have = program.sample[name].shape
        free = program.dynamic.get(name, {})
        if len(dims) != len(have):
            raise InputError(f"Workload shape {phase.name}: input {name} has {len(have)} axes, not {len(dims)}.")
        for axis, (want, fixed) in enumerate(zip(dims, have, strict=True)):
            if axis not in free and want != fixed:
                raise InputError(
                    f"Workload shape {phase.name}: axis {axis} of input {name} is fixed at {fixed} in this model; "
                    f"give {fixed} there, or export the model with that axis dynamic."
                )
            if axis in free and bound.setdefault(free[axis], want) != want:
                raise InputError(
                    f"Workload shape {phase.name} binds the axis {free[axis]!r} to both {bound[free[axis]]} and {want}."
                )
    shapes = {
        name: tuple(
            bound.get(program.dynamic.get(name, {}).get(axis, ""), size) for axis, size in enumerate(program.sample[name].shape)
        )
        for name in program.inputs
    }
    return Phase(phase.name, {**shapes, **phase.shapes}, phase.weight)


def _name(shapes: Mapping[str, Sequence[int]]) -> str:
    """The largest input's dimensions: "1x128"."""
    largest = max(shapes.values(), key=lambda dims: (len(dims), dims), default=())
    return "x".join(map(str, largest)) or "scalar"
