"""A loaded model as a function to be timed: inputs bound once, nothing but the runtime's own call inside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..cost_model.errors import InputError
from ..cost_model.program import Program
from .backend import Arrays
from .folder import is_emitted

Call = Callable[[], Any]
Bind = Callable[[Arrays], Call]


@contextmanager
def timed_model(program: Program, spec: str, place: str = "cpu") -> Iterator[Bind]:
    """Gives a function from input arrays to a call without arguments that returns the outputs in the order of `program.outputs`.

    An onnx_ir.Model runs in an onnxruntime session (of the file behind `spec` where there is one), a GraphModule under
    torch.inference_mode, on `place`, where it lies already ("cuda": a call only queues its work). Raises InputError where the runtime
    cannot load the model.
    """
    if program.runtime == "torch":
        yield lambda feeds: _torch_call(program, feeds, place)
        return
    from .runtime_onnx import open_session

    with open_session(onnx_file(spec) or program.graph) as session:
        yield lambda feeds: lambda: session.run(list(program.outputs), dict(feeds))


def onnx_file(spec: str) -> Path | None:
    """The ONNX file that `spec` names: itself, or model.onnx of a folder that Szilard wrote; None for any other model."""
    path = Path(spec)
    if path.is_dir() and is_emitted(path) and (path / "model.onnx").is_file():
        return path / "model.onnx"
    return path if path.suffix == ".onnx" and path.is_file() else None


def bound_call(bind: Bind, program: Program, feeds: Arrays) -> Call:
    """A call on `feeds`, cast to the dtypes that `program` reads and run once, so that a fault shows before timing starts."""
    cast = {name: np.ascontiguousarray(np.asarray(feeds[name]).astype(program.sample[name].dtype)) for name in program.inputs}
    call = bind(cast)
    try:
        call()
    except Exception as fault:  # onnxruntime and torch raise a dozen unrelated types here
        shapes = ", ".join(f"{name} {'x'.join(map(str, array.shape))}" for name, array in cast.items())
        reason = str(fault).strip().splitlines()[0].rstrip(".")
        raise InputError(f"{program.source} cannot run on {shapes}: {reason}; give shapes it takes with --shape.") from fault
    return call


def named_outputs(program: Program, call: Call) -> dict[str, np.ndarray]:
    """The outputs of one call by name, as arrays."""
    results = call()
    if program.runtime == "torch":
        from .runtime_torch import named

        return named(results, program.outputs)
    return dict(zip(program.outputs, (np.asarray(result) for result in results), strict=True))


def _torch_call(program: Program, feeds: Arrays, place: str) -> Call:
    import torch

    from .runtime_torch import as_tensors

    tensors = [tensor.to(place) for tensor in as_tensors(feeds, program.inputs)]

    def call() -> Any:
        with torch.inference_mode():
            return program.graph(*tensors)

    return call
