"""Workloads as users write them: `--shape` texts, a workload file, and their fit to the inputs of a model."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..cost_model.errors import InputError
from ..cost_model.plan import Phase, Workload

EVERY_INPUT = "*"
_WEIGHT = re.compile(r"(?P<body>.*?)(?::(?P<weight>[0-9.eE+-]+))?")
_GRAMMAR = "write it as input=1x128, input_a=1x128,input_b=1x128:0.5 or 1x128:0.5 (a weight follows the colon)"


def parse_shape(text: str) -> Phase:
    """One `--shape`: "input=dims[:weight]", several inputs with commas between them, or bare dims for every input of that rank.

    A bare shape is kept under the name "*" until `fit_workload` knows the inputs. Raises InputError naming the text.
    """
    match = _WEIGHT.fullmatch(text.strip())
    body, weight_text = (match["body"], match["weight"]) if match else (text, None)
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
    return Phase(_dims(next(iter(shapes.values()))), shapes, weight)


def parse_shapes(texts: Sequence[str]) -> Workload:
    """All `--shape` options of one command as a workload; phases whose short names collide are told apart by all their shapes."""
    phases = [parse_shape(text) for text in texts]
    names = [phase.name for phase in phases]
    return Workload(tuple(Phase(_long(p), p.shapes, p.weight) if names.count(p.name) > 1 else p for p in phases))


def read_workload(path: str | Path) -> Workload:
    """A workload file: a JSON list of {"name", "shapes": {input: [dims]}, "weight"}. Raises InputError naming the entry."""
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


def fit_workload(workload: Workload | None, sample: Mapping[str, Any]) -> Workload:
    """The workload with one shape for each input of `sample` (input name -> array): a bare shape goes to the inputs of its
    rank, an input that is not named keeps its sample's shape, and None is one phase of the sample's own shapes.

    Raises InputError for an input that the model lacks, a rank that differs, or a bare shape that fits no input.
    """
    own = {name: tuple(int(dim) for dim in array.shape) for name, array in sample.items()}
    if workload is None:
        return Workload((Phase(_dims(next(iter(own.values()), ())), own),))
    return Workload(tuple(Phase(phase.name, _fit(phase, own), phase.weight) for phase in workload.phases))


def _fit(phase: Phase, own: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    fitted = dict(own)
    bare = phase.shapes.get(EVERY_INPUT)
    if bare is not None:
        same = [name for name, shape in own.items() if len(shape) == len(bare)]
        if not same:
            raise InputError(f"The shape {_dims(bare)} fits no input; the inputs are {_listed(own)}.")
        fitted.update(dict.fromkeys(same, bare))
    for name, shape in phase.shapes.items():
        if name == EVERY_INPUT:
            continue
        if name not in own:
            close = difflib.get_close_matches(name, own, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise InputError(
                f"The workload names the input {name!r}, which the model lacks; the inputs are {_listed(own)}.{hint}"
            )
        if len(shape) != len(own[name]):
            raise InputError(
                f"The workload gives {name} the shape {_dims(shape)}; the model's {name} has {len(own[name])} axes."
            )
        fitted[name] = tuple(shape)
    return fitted


def _phase(entry: Any, where: str) -> Phase:
    if not isinstance(entry, dict) or not isinstance(entry.get("shapes"), dict) or not entry["shapes"]:
        raise InputError(f'{where} must have "shapes": {{input name: [dims]}}.')
    unknown = sorted(set(entry) - {"name", "shapes", "weight"})
    if unknown:
        raise InputError(f"{where} has the unknown field {unknown[0]!r}; the fields are name, shapes and weight.")
    shapes = {}
    for name, dims in entry["shapes"].items():
        if not isinstance(dims, list) or not all(type(dim) is int and dim > 0 for dim in dims):
            raise InputError(f"{where} gives {name} the shape {dims!r}; a shape is a list of whole numbers above zero.")
        shapes[name] = tuple(dims)
    weight = entry.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        raise InputError(f"{where} has weight {weight!r}; a weight is a number above zero.")
    return Phase(str(entry.get("name") or _dims(next(iter(shapes.values())))), shapes, float(weight))


def _dims(shape: Sequence[int]) -> str:
    return "x".join(str(dim) for dim in shape) or "scalar"


def _long(phase: Phase) -> str:
    return ",".join(f"{name}={_dims(shape)}" for name, shape in phase.shapes.items())


def _listed(shapes: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{name} ({_dims(shape)})" for name, shape in shapes.items())
