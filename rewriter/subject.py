"""`Subject`: one model to be measured, loaded, on the device it runs on, and seen as its runtime runs it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..cost_model.device import Device
from ..cost_model.errors import InputError, SzilardError
from ..cost_model.net import Net
from ..cost_model.plan import Workload
from ..cost_model.program import Program
from ..cost_model.time_table import machine_fingerprint
from .backend import Arrays
from .explain import read_plan, read_report
from .folder import is_emitted
from .load import load
from .op_times import OpTimes, runs_for
from .timed_model import onnx_file

CARD = "cuda"


@dataclass(frozen=True, eq=False)
class Subject:
    """`spec` is what the user named, `place` "cpu" or "cuda"; `program` lies there already. `workload` is what the model's own recipe
    suggests, or None."""

    spec: str
    place: str
    program: Program
    workload: Workload | None

    @cached_property
    def _optimised(self) -> tuple[Any, str]:
        """The ONNX graph as onnxruntime runs it, or None and why there is none."""
        from .onnx_as_run import as_onnxruntime_runs

        try:
            return as_onnxruntime_runs(onnx_file(self.spec) or self.program.graph), ""
        except SzilardError as fault:
            return None, str(fault)

    @property
    def unlike(self) -> str:
        """Why the ops of `net` are not those that the runtime calls; "" where they are."""
        return self._optimised[1] if self.program.runtime == "onnxruntime" else ""

    def net(self, shapes: Mapping[str, tuple[int, ...]]) -> Net:
        """The ops that the runtime calls, at `shapes`: of an ONNX model those after onnxruntime's own optimiser."""
        if self.program.runtime == "torch":
            from .backend_torch import TorchBackend

            return TorchBackend(self.program).view(self.program.graph, shapes)
        from .backend_onnx import OnnxBackend

        graph, _ = self._optimised
        return OnnxBackend(self.program.sample).view(self.program.graph if graph is None else graph, shapes)

    def op_times(self, feeds: Arrays, seconds: float, ops: int) -> OpTimes:
        """Seconds of the ops of `net` on `feeds`; a call takes `seconds` and has that many `ops`. Raises SzilardError where they cannot be
        had."""
        runs = runs_for(seconds, ops)
        if self.program.runtime == "torch":
            from .op_times_torch import torch_op_seconds
            from .runtime_torch import as_tensors

            tensors = [tensor.to(self.place) for tensor in as_tensors(feeds, self.program.inputs)]
            return torch_op_seconds(self.program.graph, tensors, runs)
        from .op_times_onnx import onnx_op_seconds

        graph, reason = self._optimised
        if graph is None:
            raise InputError(reason)
        return onnx_op_seconds(graph, feeds, runs)


def open_subject(spec: str, task: str | None, shapes: Mapping[str, tuple[int, ...]] | None, place: str) -> Subject:
    """Load `spec` and put it on `place`. Raises InputError for what cannot be used, or is no PyTorch model and should run on a card."""
    loaded = load(spec, task=task, shapes=shapes)
    program = loaded.program
    if place == CARD:
        if program.runtime != "torch":
            raise InputError(
                f"{spec} is an ONNX model, and models are measured on a card by PyTorch; give the factory (package.module:function), the "
                ".pt2 or the hf: folder behind it."
            )
        from .on_device import on_device

        program = replace(program, graph=on_device(program.graph, CARD))
    return Subject(spec, place, program, loaded.workload)


def place_of(device: Device, target: str | Path) -> str:
    """Where models that `device` stands for run: "cpu", or "cuda". Raises InputError for a card where there is none."""
    if device.kind == "cpu":
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        raise InputError(
            f"{device.name} is not a processor's profile, and models are timed on this machine's processor; give --target a profile "
            f"of that, or price the model with `szilard estimate --target {target}`."
        )
    return CARD


def synchroniser(place: str) -> Callable[[], object] | None:
    """What waits for the work that calls on `place` only queue; None where they wait themselves."""
    if place != CARD:
        return None
    import torch

    return torch.cuda.synchronize


def machine_of(place: str) -> str:
    """The name of the processor or of the card that runs what lies on `place`."""
    if place == CARD:
        import torch

        return torch.cuda.get_device_name()
    return machine_fingerprint()["cpu"]


def planned_workload(spec: str) -> Workload | None:
    """The workload that a folder was optimised for; None for any other model. Of a prefill and a decode step the phases of the prefill,
    which is the model that a folder is known by; None where it has none."""
    if not is_emitted(Path(spec)):
        return None
    plan = read_plan(Path(spec) / "plan.json")
    if not any(choice.program for choice in plan.choices):
        return plan.workload
    phases = tuple(phase for phase in plan.workload.phases if not phase.context)
    return Workload(phases) if phases else None


def names_of(specs: Sequence[str]) -> list[str]:
    """A short name for each of `specs`: the stem of a file, the name of a folder, "minilm" for package.minilm:factory. Those that would
    have the same name get their folder's before it, or stay whole."""
    for name in (_stem, lambda spec: f"{Path(spec).resolve().parent.name}/{_stem(spec)}"):
        found = [name(spec) for spec in specs]
        if len(set(found)) == len(set(specs)):
            return found
    return list(specs)


def same_model(spec: str, other: str) -> bool:
    """Whether two names mean one model: written alike, or two paths to one file or folder."""
    paths = Path(spec), Path(other)
    return spec == other or (all(path.exists() for path in paths) and os.path.samefile(*paths))


def family_of(spec: str) -> str:
    """The family of a model where the user names none: its short name; of a folder, that of the model that was rewritten."""
    path = Path(spec)
    source = read_report(path).get("model", {}).get("source") if is_emitted(path) else None
    return _stem(str(source or spec))


def _stem(spec: str) -> str:
    path = Path(spec.removeprefix("hf:"))
    if path.is_dir() or spec.startswith("hf:"):
        return path.resolve().name
    if path.is_file() or path.suffix in (".onnx", ".pt2"):
        return path.stem
    module, colon, function = spec.partition(":")
    last = module.rpartition(".")[2]
    return last if not colon or function == "factory" else f"{last}.{function}"
