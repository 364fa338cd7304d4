"""Workloads as users write them: `--shape` texts, a workload file, and their fit to the inputs of a model."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..cost_model.errors import InputError
from ..cost_model.plan import Phase, Workload
from ..cost_model.program import Program

EVERY_INPUT = "*"
_PARTS = re.compile(r"(?P<body>[^@]*?)(?:@(?P<context>[^:]*))?(?::(?P<weight>[0-9.eE+-]+))?")
_GRAMMAR = (
    "write it as input=1x128, input_a=1x128,input_b=1x128:0.5 or 1x128:0.5 (a weight follows the colon), or 8x1@2048 to decode"
)


def parse_shape(text: str) -> Phase:
    """One `--shape`: "input=dims[@context][:weight]", several inputs with commas between them, or bare dims for every input of that rank.

    A bare shape is kept under the name "*" until `workload_for` knows the inputs. Raises InputError naming the text.
    """
    match = _PARTS.fullmatch(text.strip())
    body, context, weight_text = (match["body"], match["context"], match["weight"]) if match else (text, None, None)
    shapes: dict[str, tuple[int, ...]] = {}
    for item in body.split(","):
        name, equals, dims = item.rpartition("=")
        name = name.strip() if equals else EVERY_INPUT
        if not name or name in shapes or not re.fullmatch(r"\s*[1-9]\d*(x[1-9]\d*)*\s*", dims):
            raise InputError(f"--shape {text!r} cannot be read; {_GRAMMAR}.")
        shapes[name] = tuple(int(dim) for dim in dims.split("x"))
    try:
        weight = float(weight_text) if weight_text is not None else 1.0
    except ValueError:
        weight = -1.0
    if not 0 < weight < float("inf"):
        raise InputError(f"--shape {text!r} has weight {weight_text!r}; a weight is a number above zero.")
    if context is not None and not re.fullmatch(r"[1-9]\d*", context):
        raise InputError(
            f"--shape {text!r} has context {context!r}; a context is a whole number above zero, the positions in the cache."
        )
    return Phase(_short(shapes, int(context or 0)), shapes, weight, int(context or 0))


def parse_shapes(texts: Sequence[str]) -> Workload:
    """All `--shape` options of one command as a workload; phases whose short names collide are told apart by all their shapes."""
    phases = [parse_shape(text) for text in texts]
    names = [phase.name for phase in phases]
    return Workload(tuple(replace(p, name=_long(p)) if names.count(p.name) > 1 else p for p in phases))


def read_workload(path: str | Path) -> Workload:
    """A workload file: a JSON list of {"name", "shapes": {input: [dims]}, "weight", "context"}. Raises InputError naming the entry."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as fault:
        raise InputError(f"The workload file {path} cannot be read: {fault.strerror or fault}.") from fault
    except ValueError as fault:
        raise InputError(
            f"The workload file {path} is not JSON ({fault}); it is a list of names, shapes and weights."
        ) from fault
    if not isinstance(data, list) or not data:
        raise InputError(
            f'The workload file {path} must hold a JSON list of {{"name", "shapes", "weight"}} with at least one entry.'
        )
    return Workload(tuple(_phase(entry, f"Entry {index} of the workload file {path}") for index, entry in enumerate(data)))


def sample_shapes(request: Any) -> dict[str, tuple[int, ...]] | None:
    """The shapes of the first phase that `request`, as in `workload_for`, gives: a model may run on no others. None for none, or where
    every phase decodes, since one new token says little of a model that was traced without a cache; a bare one is kept under "*" (see
    `spread`)."""
    asked = asked_workload(request)
    return next((dict(phase.shapes) for phase in asked.phases if not phase.context), None) if asked else None


def longest_length(request: Any) -> int:
    """The most positions, along a second axis, of the phases that `request`, as in `workload_for`, gives; 0 for none. What a cache holds
    does not count."""
    asked = asked_workload(request)
    sizes = (
        [dims[1] for phase in asked.phases if not phase.context for dims in phase.shapes.values() if len(dims) > 1]
        if asked
        else []
    )
    return max(sizes, default=0)


def spread(shapes: Mapping[str, tuple[int, ...]], inputs: Mapping[str, Sequence[Any]]) -> dict[str, tuple[int, ...]]:
    """`shapes` by input, with a bare one for every input of its rank that has none of its own. `inputs` maps names to shapes, of which
    only the ranks count. Raises InputError for a bare shape that fits no input."""
    given = {name: tuple(dims) for name, dims in shapes.items() if name != EVERY_INPUT}
    bare = shapes.get(EVERY_INPUT)
    if bare is None:
        return given
    same = {name: tuple(bare) for name, shape in inputs.items() if len(shape) == len(bare)}
    if not same:
        raise InputError(f"The shape {_dims(bare)} fits no input; the inputs are {_listed(inputs)}.")
    return {**same, **given}


def asked_workload(request: Any) -> Workload | None:
    """The workload that `request`, as in `workload_for`, gives before it is fitted to a model; None for none."""
    if request is None or isinstance(request, Workload):
        return request
    if isinstance(request, Path) or (isinstance(request, str) and request.endswith(".json")):
        return read_workload(request)
    return parse_shapes([request] if isinstance(request, str) else list(request)) if request else None


def workload_for(program: Program, request: Any = None) -> Workload:
    """The workload that `request` asks for, with one shape for each input of `program`: a Workload, a path to a workload file, `--shape`
    texts, or None for the sample's own shapes.

    A bare shape goes to every input of its rank; an input that is not named keeps its sample's shape, with the symbols that the named ones
    bind. Raises InputError for an unknown input, a rank that differs, an axis that the trace fixed, or a symbol bound twice.
    """
    asked = asked_workload(request)
    if asked is None:
        shapes = {name: tuple(program.sample[name].shape) for name in program.inputs}
        return Workload((Phase(_short(shapes, 0), shapes),))
    return Workload(tuple(_complete(phase, program) for phase in asked.phases))


def _complete(phase: Phase, program: Program) -> Phase:
    given = _named(phase, program)
    bound: dict[str, int] = {}
    for name, dims in given.items():
        have, free = program.sample[name].shape, program.dynamic.get(name, {})
        if len(dims) != len(have):
            raise InputError(f"Workload shape {phase.name}: input {name} has {len(have)} axes, not {len(dims)}.")
        for axis, (want, fixed) in enumerate(zip(dims, have, strict=True)):
            if axis not in free and want != fixed:
                raise InputError(
                    f"Workload shape {phase.name}: axis {axis} of input {name} is fixed at {fixed} in {program.source}; "
                    f"give {fixed} there, or export the model with that axis dynamic."
                )
            if axis in free and bound.setdefault(free[axis], want) != want:
                raise InputError(
                    f"Workload shape {phase.name} binds the axis {free[axis]!r} to both {bound[free[axis]]} and {want}."
                )
    shapes = {}
    for name in program.inputs:
        free = program.dynamic.get(name, {})
        own = (bound.get(free.get(axis, ""), int(size)) for axis, size in enumerate(program.sample[name].shape))
        shapes[name] = given.get(name, tuple(own))
    return replace(phase, shapes=shapes)


def _named(phase: Phase, program: Program) -> dict[str, tuple[int, ...]]:
    """The shapes that the phase gives, by input, with a bare one spread over the inputs of its rank."""
    inputs = {name: tuple(program.sample[name].shape) for name in program.inputs}
    for name in phase.shapes:
        if name not in (EVERY_INPUT, *inputs):
            close = difflib.get_close_matches(name, inputs, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise InputError(
                f"The workload names the input {name!r}, which the model lacks; the inputs are {_listed(inputs)}.{hint}"
            )
    return spread(phase.shapes, inputs)


def _phase(entry: Any, where: str) -> Phase:
    if not isinstance(entry, dict) or not isinstance(entry.get("shapes"), dict) or not entry["shapes"]:
        raise InputError(f'{where} must have "shapes": {{input name: [dims]}}.')
    unknown = sorted(set(entry) - {"name", "shapes", "weight", "context"})
    if unknown:
        raise InputError(f"{where} has the unknown field {unknown[0]!r}; the fields are name, shapes, weight and context.")
    shapes = {}
    for name, dims in entry["shapes"].items():
        if not isinstance(dims, list) or not all(type(dim) is int and dim > 0 for dim in dims):
            raise InputError(f"{where} gives {name} the shape {dims!r}; a shape is a list of whole numbers above zero.")
        shapes[name] = tuple(dims)
    weight = entry.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        raise InputError(f"{where} has weight {weight!r}; a weight is a number above zero.")
    context = entry.get("context", 0)
    if type(context) is not int or context < 0:
        raise InputError(
            f"{where} has context {context!r}; a context is a whole number, the positions in the cache (0 for none)."
        )
    return Phase(str(entry.get("name") or _short(shapes, context)), shapes, float(weight), context)


def described(phase: Phase) -> dict[str, Any]:
    """A phase as reports hold it: what a workload file would say."""
    shapes = {name: list(shape) for name, shape in phase.shapes.items()}
    context = {"context": phase.context} if phase.context else {}
    return {"name": phase.name, "shapes": shapes, "weight": phase.weight, **context}


def _dims(shape: Sequence[Any]) -> str:
    return "x".join(str(dim) for dim in shape) or "scalar"


def _short(shapes: Mapping[str, tuple[int, ...]], context: int) -> str:
    """The dims of the input of highest rank, then largest, and the context: "8x128", "8x1@2048"."""
    return _dims(max(shapes.values(), key=lambda dims: (len(dims), dims), default=())) + _at(context)


def _long(phase: Phase) -> str:
    return ",".join(f"{name}={_dims(shape)}" for name, shape in phase.shapes.items()) + _at(phase.context)


def _at(context: int) -> str:
    return f"@{context}" if context else ""


def _listed(shapes: Mapping[str, Sequence[Any]]) -> str:
    return ", ".join(f"{name} ({_dims(shape)})" for name, shape in shapes.items())
