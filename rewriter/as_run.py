"""One price of a phase, whoever asks: of the ops that its runtime calls where the profile knows kernels, else of the model's own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..cost_model import kinds
from ..cost_model.cost import Cost, total_cost
from ..cost_model.device import Device
from ..cost_model.errors import InputError, SzilardError
from ..cost_model.kernel_times import has_kernel_times
from ..cost_model.net import Net, Op
from ..cost_model.onnx_style import OnnxStyle
from ..cost_model.plan import Phase
from ..cost_model.program import Program
from .backend import Backend
from .decode_phase import Decoder, decoder
from .prediction import Prediction, predict

AS_RUN = (
    "The profile knows the kernels of this machine's onnxruntime, so the ops are those that its optimiser makes of the model."
)
AS_WRITTEN = "{}: priced op by op as the model is written, with seconds of the roofline, as onnxruntime's own form of it is not known: {}"


@dataclass(frozen=True, eq=False)
class AsRun:
    """`graph` is the program's own or a cleaned one, `run` what its runtime calls: None where the profile knows no kernels of it, or the
    runtime does not say (`reason`)."""

    program: Program
    backend: Backend
    device: Device
    graph: Any
    run: Any
    reason: str

    @property
    def notes(self) -> list[str]:
        """What a reader of its prices must know, for all phases."""
        return [] if self.run is None or self.run is self.graph else [AS_RUN]

    def decoder(self, phase: Phase, said: str = "") -> tuple[Decoder, str]:
        """The model as it decodes, and "" or why that is not in the form that its runtime calls. Raises InputError as `decoder` does."""
        reason = self.reason
        if self.run is not None:
            try:
                return decoder(self.program, self.backend, self.run, phase, said), ""
            except InputError as fault:
                reason = str(fault)
        return decoder(self.program, self.backend, self.graph, phase, said), reason

    def prediction(self, phase: Phase) -> Prediction:
        """The price of one call of a phase; one with a context is priced as it decodes. Raises InputError as `decoder` does."""
        if phase.context:
            made, reason = self.decoder(phase)
            return self.priced(made.net(phase.shapes), reason, phase.name, made.unseen)
        graph = self.graph if self.run is None else self.run
        return self.priced(self.backend.view(graph, phase.shapes), self.reason, phase.name)

    def priced(self, net: Net, reason: str, name: str, unseen: str = "") -> Prediction:
        """The price of a net of this model; `reason`, why it is not in the form that the runtime calls, and `unseen` become notes."""
        notes = ([AS_WRITTEN.format(name, reason)] if reason else []) + ([unseen] if unseen else [])
        return predict(net, self.device, self.backend.runtime, as_run=not reason, notes=tuple(notes))

    def part(self, net: Net, graph: Any = None) -> Cost:
        """The cost of what is a part of a model: its ops, without what a call of a model takes. `net` is a view of `graph`, or has the ops
        that the runtime calls."""
        # In standard ONNX floats are written where codes are multiplied.
        coded = self.backend.style == OnnxStyle.qdq and any(op.kind == "dequantize_linear" for op in net.ops.values())
        fused = coded and self.device.kind == "cpu"
        run, reason = (None, "") if graph is None else run_graph(graph, self.backend.runtime, self.device, fused)
        seen = net if run is None or run is graph else self.backend.view(run, {})
        return total_cost(predict(seen, self.device, self.backend.runtime, as_run=not reason).ops.values())


def as_run(program: Program, backend: Backend, device: Device, graph: Any) -> AsRun:
    """How the phases of `program`, or of a `graph` made from it, are priced on `device`."""
    return AsRun(program, backend, device.used_by(backend.runtime), graph, *run_graph(graph, backend.runtime, device))


def run_graph(graph: Any, runtime: str, device: Device, fused: bool = False) -> tuple[Any, str]:
    """(what `runtime` calls when it runs `graph`, ""), or (None, why there is none): "" where no kernels are known and it would not
    matter, unless much is `fused`."""
    if not has_kernel_times(device, runtime) and not fused:
        return None, ""
    if runtime != "onnxruntime":
        return graph, ""
    from .onnx_as_run import as_onnxruntime_runs

    try:
        return as_onnxruntime_runs(graph), ""
    except SzilardError as fault:
        return None, str(fault)


def became(run: Net, net: Net, ops: Iterable[str]) -> list[str]:
    """The ids in `run`, the ops that are called, of what the runtime made of `ops` of `net`: those that keep an id, or write what one of
    them wrote, or, of a product or convolution, what the activation behind it wrote. What it computed beforehand has none."""
    names = set(ops)
    called = {op.id for op in run.ops.values()}
    made = {op.id.removesuffix(_BLOCKED) for op in run.ops.values()}.union(*(op.outputs for op in run.ops.values()))
    written: set[str] = set()
    for name in names:
        op: Op | None = net.ops[name]
        while op is not None and not (made.intersection(op.outputs) or op.id in called):
            readers = net.consumers(op.output) if net.ops[name].kind in _FUSING else ()
            op = readers[0] if len(readers) == 1 and readers[0].kind in kinds.ELEMENTWISE else None
        written.update(output for output in (op.outputs if op is not None else ()) if output)
    return [
        op.id
        for op in run.ops.values()
        if op.id in names or op.id.removesuffix(_BLOCKED) in written or written.intersection(op.outputs)
    ]


_FUSING = kinds.MATMUL | kinds.CONVOLUTION
_BLOCKED = "_nchwc"
"""What onnxruntime calls a convolution whose channels it laid out in blocks: the name of its output, and this."""
