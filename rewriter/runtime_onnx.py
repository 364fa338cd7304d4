"""onnxruntime sessions over onnx_ir models, and the probe that reads and disturbs values inside one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from ..cost_model.errors import InputError
from .backend import Arrays, Runner

# Protocol buffers stop at 2 GB; above this size weights travel beside the model.
LARGEST_INLINE_BYTES = 1_500_000_000


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initialisers."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


def save_model(model: ir.Model, path: Path) -> None:
    """Write `path`, with weights in `<name>.data` beside it where one file would be too large for protocol buffers."""
    external = weight_bytes(model) > LARGEST_INLINE_BYTES
    ir.save(model, path, external_data=f"{path.name}.data" if external else None)


@contextmanager
def open_session(
    model: ir.Model | Path,
    *,
    optimize: bool = True,
    threads: int = 0,
    alone: bool = False,
    configure: Callable[[ort.SessionOptions], None] = lambda _: None,
) -> Iterator[ort.InferenceSession]:
    """A session on the CPU provider, dropped at the end: sessions left alive disturb each other's timings (fp32 MiniLM at 1x16
    went from 3.1 to 26 ms with nine open on two cores). `alone` says that nothing else runs between its runs, so that its threads may wait
    for the next one awake, as they do by default: a voice detector took 90 us a run, and 120 with threads that had to be woken. `configure`
    may change its options further. InputError quotes onnxruntime where it cannot load the model."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    # Threads that go on spinning after a run slow the next session: three in turn took 14.9 ms each with, 3 to 6 ms without.
    options.add_session_config_entry("session.force_spinning_stop", "0" if alone else "1")
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    configure(options)
    with tempfile.TemporaryDirectory(prefix="szilard-") as scratch:
        source: bytes | str
        if isinstance(model, Path):
            source = str(model)
        elif weight_bytes(model) > LARGEST_INLINE_BYTES:
            save_model(model, Path(scratch) / "model.onnx")
            source = str(Path(scratch) / "model.onnx")
        else:
            # Bytes have no folder that external data could be relative to.
            source = ir.to_proto(ir.external_data.load_to_model(model)).SerializeToString()
        try:
            session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as fault:  # onnxruntime raises a dozen unrelated types here
            raise InputError(f"onnxruntime cannot load the model: {_quoted(fault)}") from fault
        yield session


def run_session(session: ort.InferenceSession, feeds: Arrays, outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Outputs by name; InputError quotes onnxruntime where the run fails."""
    names = [o.name for o in session.get_outputs()] if outputs is None else list(outputs)
    try:
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except Exception as fault:  # as above
        raise InputError(f"onnxruntime failed while running the model: {_quoted(fault, 2)}") from fault


def _quoted(fault: Exception, lines: int = 1) -> str:
    """The first lines of a message as one; on a shape that does not fit, the second line says which axis."""
    return " ".join(line.strip() for line in str(fault).splitlines()[:lines]) or type(fault).__name__


@contextmanager
def onnx_runner(model: ir.Model | Path) -> Iterator[Runner]:
    """The model as a function from input arrays to output arrays."""
    with open_session(model) as session:
        yield lambda feeds: run_session(session, feeds)


class OnnxModule:
    """The model as a callable that keeps one session, opened by the first call: dict of arrays -> dict of arrays."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model

    @cached_property
    def _session(self) -> ort.InferenceSession:
        with open_session(self._model) as session:
            return session

    def __call__(self, feeds: Arrays) -> dict[str, np.ndarray]:
        return run_session(self._session, feeds)


class OnnxProbe:
    """One session in which every probed value is an output and has an addend that is fed with zero unless given."""

    def __init__(
        self, session: ort.InferenceSession, outputs: Sequence[str], addends: Mapping[str, tuple[str, np.dtype]]
    ) -> None:
        self._session = session
        self._outputs = tuple(outputs)
        self._addends = dict(addends)

    def _feeds(self, sample: Arrays, addends: Arrays) -> dict[str, np.ndarray]:
        given = {name: np.asarray(addends.get(value, [0]), dtype) for value, (name, dtype) in self._addends.items()}
        return {**sample, **given}

    def capture(self, sample: Arrays, values: Sequence[str]) -> dict[str, np.ndarray]:
        """The named values on one sample, undisturbed."""
        computed = [value for value in values if value not in sample]
        # An empty list of outputs means all of them to onnxruntime.
        found = run_session(self._session, self._feeds(sample, {}), computed) if computed else {}
        return {**found, **{value: sample[value] for value in values if value in sample}}

    def run(self, sample: Arrays, addends: Arrays) -> dict[str, np.ndarray]:
        """The model's outputs on one sample with `addends` (value name -> array) added where they are named."""
        return run_session(self._session, self._feeds(sample, addends), self._outputs)


@contextmanager
def onnx_probe(model: ir.Model, read: Sequence[str], disturbed: Sequence[str]) -> Iterator[OnnxProbe]:
    """A probe on a copy of `model`: `read` values become outputs, `disturbed` ones (of any float dtype) gain an addend behind them."""
    copy = model.clone()
    graph = copy.graph
    outputs = [str(o.name) for o in graph.outputs]
    values = {value.name: value for node in graph for value in node.outputs}
    dtypes = _dtypes(copy, [values[name] for name in disturbed])
    addends = {}
    for name in disturbed:
        value = values[name]
        producer = value.producer()
        assert producer is not None
        value.name = f"{name}.undisturbed"
        addend = ir.val(f"{name}.addend", dtype=dtypes[name])
        node = ir.node(
            "Add", [value, addend], name=f"{name}.disturb", outputs=[ir.Value(name=name, type=value.type, shape=value.shape)]
        )
        for user, index in tuple(value.uses()):
            user.replace_input_with(index, node.outputs[0])
        graph.insert_after(producer, node)
        node.replace_input_with(0, value)
        for position, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[position] = node.outputs[0]
        graph.inputs.append(addend)
        values[name] = node.outputs[0]
        addends[name] = (str(addend.name), dtypes[name].numpy())
    graph.outputs.extend(values[name] for name in dict.fromkeys(read) if name in values and name not in outputs)
    # Fusions would only be prevented by the extra outputs, and the optimiser's time is saved.
    with open_session(copy, optimize=False) as session:
        yield OnnxProbe(session, outputs, addends)


def _dtypes(model: ir.Model, values: Sequence[ir.Value]) -> dict[str, ir.DataType]:
    """The dtype of each value by name; onnxruntime, which knows its own operators too, is asked for those that the model leaves out."""
    found = {str(value.name): value.dtype for value in values if value.dtype is not None}
    unknown = [value for value in values if value.dtype is None]
    if unknown:
        declared = len(model.graph.outputs)
        model.graph.outputs.extend(unknown)
        with open_session(model, optimize=False) as session:
            # "tensor(float16)" is FLOAT16.
            kinds = {each.name: each.type for each in session.get_outputs()}
            found |= {str(v.name): ir.DataType[kinds[v.name].removeprefix("tensor(").rstrip(")").upper()] for v in unknown}
        del model.graph.outputs[declared:]
    return found
