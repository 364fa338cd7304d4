"""Whatever a user names as a model, as a `Program` with the data and the metric that come with it."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch

from ..cost_model.errors import InputError, SzilardError
from ..cost_model.plan import Workload
from ..cost_model.program import Program
from .fault_text import fault_text
from .sample import with_sample
from .trace_onnx import load_onnx, trace_onnx_model
from .trace_torch import trace_exported, trace_module

KINDS = "model.onnx, model.pt2, package.module:factory, hf:DIR or a folder that szilard wrote"
PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".jit", ".torchscript")
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Loaded:
    """`calibration` is anything `read_calibration` takes, or None; `metric` takes a runner (dict of arrays -> dict of arrays) and is
    better when higher; `workload` is what the model's own recipe suggests, or None."""

    program: Program
    calibration: Any = None
    metric: Callable[[Any], float] | None = None
    metric_name: str = ""
    workload: Workload | None = None
    notes: tuple[str, ...] = ()


def load(model: Any, task: str | None = None, shapes: Shapes | None = None, sample: Any = None, length: int = 0) -> Loaded:
    """Load `model`: a spec (see `KINDS`) or a path; an nn.Module with `sample`; an ExportedProgram; an ONNX model in memory.

    `task` names a recipe of sample, calibration and metric for a transformers folder ("embed", "classify", "causal-lm", "none"), or
    "decode" for a language model that is only priced.
    `shapes` (input name -> sizes) chooses the sizes of the random sample of an ONNX model; a `sample` replaces what any other model
    brings, once it is checked against it. `length`: the most positions that the model is to serve, for which a recipe has texts. Raises
    InputError with a sentence for everything that cannot be used, exceptions of the user's own code included, by name.
    """
    if isinstance(model, torch.nn.Module):
        if sample is None:
            raise InputError(f"A module needs sample inputs: szilard.rewrite({type(model).__name__.lower()}, sample).")
        return Loaded(trace_module(model, sample))
    if isinstance(model, onnx.ModelProto | ir.Model):
        return Loaded(trace_onnx_model(model, shapes, sample=sample))
    found = _load_other(model, task, shapes, sample, length)
    return found if sample is None else replace(found, program=with_sample(found.program, sample))


def _load_other(model: Any, task: str | None, shapes: Shapes | None, sample: Any, length: int) -> Loaded:
    if isinstance(model, torch.export.ExportedProgram):
        return Loaded(trace_exported(model))
    if isinstance(model, Program):
        return Loaded(model)
    if not isinstance(model, str | Path):
        raise InputError(
            f"A {type(model).__name__} is no model; give a module, an exported program, an ONNX model, or {KINDS}."
        )
    return _load_spec(str(model), task, shapes, sample, length)


def _load_spec(spec: str, task: str | None, shapes: Shapes | None, sample: Any, length: int) -> Loaded:
    path = Path(spec)
    if spec.startswith("hf:"):
        return loaded_folder(*open_folder(Path(spec[3:]), task or "none", length), spec)
    if not path.exists() and _FACTORY.fullmatch(spec):
        return _load_factory(spec, shapes, sample)
    if path.is_dir():
        if (path / "model.onnx").is_file():
            return _with_task(load_onnx(path / "model.onnx", shapes, sample), task, path, length)
        if (path / "config.json").is_file():
            raise InputError(f"{path} is a transformers folder; write hf:{path}.")
        raise InputError(f"The folder {path} holds no model.onnx; give {KINDS}.")
    if path.suffix == ".pt2":
        from .archive_pt2 import load_pt2

        return Loaded(load_pt2(path))
    if path.suffix in PICKLED:
        raise InputError(
            f"{path} holds pickled Python objects, which could run code when read; give a factory (package.module:function) that "
            "builds the module, or export it to .pt2 or .onnx."
        )
    if path.suffix == ".py":
        raise InputError(f"{path} is Python source; name a function in it that builds the model: {path.stem}:FUNCTION.")
    if path.suffix == ".safetensors":
        raise InputError(f"{path} holds weights without a model; give hf:{path.parent} or a factory (package.module:function).")
    if not path.exists() and path.suffix != ".onnx":
        raise InputError(f"There is no model {spec!r}; give {KINDS}.")
    return _with_task(load_onnx(path, shapes, sample), task, path.parent, length)


def _load_factory(spec: str, shapes: Shapes | None, sample: Any) -> Loaded:
    module_name, _, name = spec.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        factory = getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as fault:
        missing = fault.name or module_name
        where = f"run from the folder that holds {module_name}" if module_name.startswith(missing) else f"install {missing}"
        raise InputError(f"{spec}: there is no module {missing!r}; {where}.") from fault
    except AttributeError as fault:
        raise InputError(f"{spec}: the module {module_name} has no {name!r} ({fault}).") from fault
    except (Exception, SystemExit) as fault:  # the user's module runs on import
        raise InputError(f"{spec}: importing {module_name} raised {fault_text(fault)}.") from fault
    if not callable(factory):
        raise InputError(f"{spec} is a {type(factory).__name__}; it must be a function that returns (module, sample inputs).")
    try:
        made = factory()
    except SzilardError:
        raise
    except (Exception, SystemExit) as fault:  # the user's factory
        raise InputError(f"{spec} raised {fault_text(fault)}.") from fault
    parts = made if isinstance(made, tuple) else (made,)
    if isinstance(parts[0], torch.nn.Module):
        if len(parts) not in (2, 3):
            raise InputError(
                f"{spec} returned {len(parts)} things; it must return (module, sample inputs) or with calibration behind."
            )
        program = trace_module(parts[0], parts[1], source=spec)
        return Loaded(program, parts[2] if len(parts) == 3 else None)
    if len(parts) == 1 and isinstance(parts[0], torch.export.ExportedProgram | onnx.ModelProto | ir.Model):
        return load(parts[0], shapes=shapes, sample=sample)
    raise InputError(
        f"{spec} returned a {type(parts[0]).__name__} first; it must return (module, sample inputs[, calibration])."
    )


def _recipe(task: str, folder: Path, length: int) -> Any:
    from ..models.tasks import recipe

    try:
        return recipe(task, folder, length)
    except (ValueError, FileNotFoundError, ModuleNotFoundError) as fault:
        raise InputError(str(fault).strip().partition("\n")[0]) from fault
    except Exception as fault:  # transformers raises whatever a malformed folder leads it to
        raise InputError(f"The transformers folder {folder} cannot be read: {fault_text(fault)}.") from fault


def open_folder(folder: Path, task: str, length: int = 0) -> tuple[Any, torch.nn.Module]:
    """(recipe of `task` for `length` positions, its module) of a transformers folder. Raises InputError for one that cannot be used."""
    if not folder.is_dir():
        raise InputError(f"The folder {folder} does not exist; hf: takes a local transformers folder and downloads nothing.")
    found = _recipe(task, folder, length)
    try:
        return found, found.build()
    except Exception as fault:  # transformers raises whatever a malformed folder leads it to
        raise InputError(f"The model in {folder} cannot be built: {fault_text(fault)}.") from fault


def loaded_folder(found: Any, module: torch.nn.Module, source: str) -> Loaded:
    """The program of what `open_folder` gave, and what comes with it. Raises InputError where it cannot be traced."""
    axes = {name: {0: "batch", 1: "sequence"} for name in found.inputs}
    program = trace_module(module, dict(found.sample), axes, source=source)
    program = replace(program, outputs=(found.output,))
    return Loaded(program, found.calibration, found.metric, found.metric_name, notes=found.notes)


def _with_task(program: Program, task: str | None, folder: Path, length: int) -> Loaded:
    """The recipe of a task also serves an ONNX file that lies beside its transformers files and reads the same inputs."""
    if task in (None, "none"):
        return Loaded(program)
    if not (folder / "config.json").is_file():
        raise InputError(
            f"--task {task} needs a tokenizer, and {folder} holds no transformers files; give hf:DIR, or --metric and --calib."
        )
    found = _recipe(str(task), folder, length)
    if set(found.inputs) != set(program.inputs):
        raise InputError(
            f"--task {task} makes {list(found.inputs)}, and {program.source} reads {list(program.inputs)}; use --calib."
        )
    return Loaded(replace(program, sample=dict(found.sample)), found.calibration, found.metric, found.metric_name)
