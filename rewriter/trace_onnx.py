"""ONNX files and models as `Program`s, with one sentence for everything that can be wrong with a file."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from ..cost_model.collection import collection_paused
from ..cost_model.errors import InputError
from ..cost_model.program import Program
from ..cost_model.sample_onnx import random_inputs, symbols
from .fault_text import fault_text
from .normal_onnx import normalise
from .runtime_onnx import open_session, run_session
from .sample import named_sample, with_sample
from .workload import spread

Shapes = Mapping[str, tuple[int, ...]]
LENGTHS = (16, 128, 512, 576)
"""Lengths that are tried in turn where the user gives none: a model may need a least length (speech frames: 512, with context 576)."""

MOST_NODES_RUN = 20_000
"""onnxruntime 1.31 takes 130 microseconds a node merely to load a graph, optimiser off: 6.6 s for 50,000 nodes."""

WEIGHT_READERS = frozenset(
    ["MatMul", "Gemm", "Conv", "ConvTranspose", "LSTM", "GRU", "RNN", "LayerNormalization", "BatchNormalization", "Gather"]
)
"""Operators whose constants are weights. Elsewhere an infinity is meant: masks hold them."""


def load_onnx(path: str | Path, shapes: Shapes | None = None, sample: Any = None) -> Program:
    """Read an .onnx file, weights in external files included (mapped, not read).

    `shapes` fixes input sizes of the random sample and `sample` takes its place, as in `trace_onnx_model`. Raises InputError for a path
    that is missing or a folder, bytes that are no ONNX model, external data that is missing, too short or outside the model's folder,
    and as `trace_onnx_model` does.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"The model file {path} does not exist.")
    if path.is_dir():
        raise InputError(
            f"{path} is a folder without a model.onnx; name an .onnx file, or hf:{path} for a transformers folder."
        )
    try:
        proto = onnx.load(path, load_external_data=False)
    except OSError as fault:
        raise InputError(f"The model file {path} cannot be read: {fault.strerror or fault}.") from fault
    except (DecodeError, ValueError, UnicodeDecodeError) as fault:
        raise InputError(
            f"{path} is not an ONNX model, or it was cut off while it was copied ({fault_text(fault)})."
        ) from fault
    if not proto.graph.node or not proto.opset_import:
        raise InputError(
            f"{path} is not an ONNX model: it holds no graph. If it was cut off while it was copied, copy it again."
        )
    _check_external_data(proto.graph, path)
    with collection_paused():
        try:
            model = ir.serde.deserialize_model(proto)
        except Exception as fault:  # onnx_ir wraps whatever a malformed message raises
            raise InputError(f"{path} is not a valid ONNX model: {fault_text(fault)}.") from fault
        for graph in model.graphs():
            for value in graph.initializers.values():
                if isinstance(value.const_value, ir.ExternalTensor):
                    value.const_value.base_dir = path.parent
        return _trace(model, shapes, str(path), sample)


def trace_onnx_model(
    model: ir.Model | onnx.ModelProto, shapes: Shapes | None = None, source: str = "ONNX model", sample: Any = None
) -> Program:
    """A model in memory as a Program: a copy in normal form, random sample inputs, and the axes without a size as dynamic.

    `shapes` (input name -> sizes, "*" for every input of that rank) go into the sample; other free axes get defaults
    (`sample_onnx.input_shapes`) with the first of `LENGTHS` on which the model runs. `sample` (see `named_sample`) takes the place of
    random inputs. Raises InputError for weights with NaN or infinity, an input that is no tensor, a sample that does not fit, and
    whatever onnxruntime refuses to load or to run.
    """
    with collection_paused():
        copy = ir.serde.deserialize_model(model) if isinstance(model, onnx.ModelProto) else model.clone()
        return _trace(copy, shapes, source, sample)


def _trace(model: ir.Model, shapes: Shapes | None, source: str, given: Any) -> Program:
    normalise(model)
    _check_finite(model, source)
    inputs = {str(value.name): tuple(value.shape or ()) for value in model.graph.inputs}
    shapes = spread(shapes or {}, inputs)
    if given is not None:
        given = named_sample(given, tuple(inputs))
        shapes = {name: array.shape for name, array in given.items()}
    outputs = tuple(value.name or "" for value in model.graph.outputs)
    program = Program(model, "onnxruntime", random_inputs(model, shapes), tuple(inputs), outputs, symbols(model), source)
    if given is not None:
        program = with_sample(program, given)
    if model.graph.num_nodes() > MOST_NODES_RUN:
        note = f"{source} has more than {MOST_NODES_RUN} nodes and was not run on its sample inputs before the work began."
        return replace(program, notes=(note,))
    lengths = LENGTHS[1:] if given is None and program.dynamic.keys() - shapes.keys() else ()
    others = (random_inputs(model, shapes, length) for length in lengths)
    return replace(program, sample=_first_that_runs(program, itertools.chain([program.sample], others)))


def _first_that_runs(program: Program, samples: Iterable[Mapping[str, np.ndarray]]) -> Mapping[str, np.ndarray]:
    """The first of `samples` on which onnxruntime runs the model; the fault of the first one where it runs on none."""
    model, source = program.graph, program.source
    first: InputError | None = None
    with _named(source), open_session(model, optimize=False) as session:
        for sample in samples:
            try:
                run_session(session, sample)
            except InputError as fault:
                sizes = ", ".join(f"{name}={'x'.join(map(str, array.shape)) or 'scalar'}" for name, array in sample.items())
                advice = f" on inputs of shape {sizes}; give shapes that it takes with --shape" if program.dynamic else ""
                first = first or InputError(f"{source}: {str(fault).rstrip('.')}{advice}.")
            else:
                return sample
    assert first is not None
    raise first


@contextmanager
def _named(source: str) -> Iterator[None]:
    try:
        yield
    except InputError as fault:
        raise fault if str(fault).startswith(source) else InputError(f"{source}: {str(fault).rstrip('.')}.") from fault


def _check_external_data(graph: onnx.GraphProto, path: Path) -> None:
    folder = path.parent.resolve()
    for tensor in _tensors(graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        target = (folder / location).resolve()
        if not location or not target.is_relative_to(folder):
            raise InputError(
                f"Weight {tensor.name!r} of {path} points to {location!r}, outside the model's folder; such files are not read. "
                "Put the data beside the model."
            )
        if not target.is_file():
            raise InputError(
                f"Weight {tensor.name!r} of {path} is in the file {location!r}, which is missing; put it beside the model."
            )
        offset, length = (entries.get(key) or "0" for key in ("offset", "length"))
        if not (offset.isdecimal() and length.isdecimal()):
            raise InputError(
                f"Weight {tensor.name!r} of {path} is at offset {offset!r} of {location!r} with length {length!r}; these must be whole "
                "numbers, so export the model again."
            )
        end = int(offset) + int(length)
        if end > target.stat().st_size:
            raise InputError(
                f"Weight {tensor.name!r} of {path} ends at byte {end} of {location!r}, which has {target.stat().st_size}; copy it again."
            )


def _tensors(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    found = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            found += [attribute.t] if attribute.HasField("t") else []
            found += attribute.tensors
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                found += _tensors(inner)
    return found


def _check_finite(model: ir.Model, source: str) -> None:
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            tensor = value.const_value
            if tensor is None or not tensor.size or not tensor.dtype.is_floating_point():
                continue
            array = tensor.numpy()
            with np.errstate(invalid="ignore"):
                low, high = np.float64(array.min()), np.float64(array.max())
            weight = any(node.op_type in WEIGHT_READERS for node, _ in value.uses())
            if np.isnan(low) or (weight and not (np.isfinite(low) and np.isfinite(high))):
                what = "NaN" if np.isnan(low) else "infinity"
                raise InputError(f"Weight {name!r} of {source} holds {what}; load a checkpoint without them.")
