"""Reads a .pt2 archive without unpickling anything that could run code."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from pathlib import Path

import torch

from ..cost_model.errors import InputError
from ..cost_model.program import Program
from .fault_text import fault_text
from .trace_torch import trace_exported


def load_pt2(path: str | Path) -> Program:
    """The program that torch.export.save wrote.

    torch.export.load unpickles whatever an archive marks as pickled, so an archive with pickled weights or constants, or whose example
    inputs are more than tensors in plain containers, is refused. Raises InputError for that, for a missing file and for bytes that
    are no such archive, besides what `trace_exported` raises.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"The model file {path} does not exist.")
    _refuse_pickles(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.load(path)
    except Exception as fault:  # the reader raises a dozen unrelated types on malformed archives
        raise InputError(
            f"{path} is not a program that torch.export.save of a near version wrote ({fault_text(fault)})."
        ) from fault
    return trace_exported(exported, str(path))


def _refuse_pickles(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            configs = [name for name in names if name.endswith(("_weights_config.json", "_constants_config.json"))]
            samples = {name: archive.read(name) for name in names if "/sample_inputs/" in name}
            pickled = [
                key
                for name in configs
                for key, entry in json.loads(archive.read(name)).get("config", {}).items()
                if entry.get("use_pickle")
                or "custom_obj" in str(entry.get("path_name"))
                or "opaque_obj" in str(entry.get("path_name"))
            ]
    except (zipfile.BadZipFile, OSError, ValueError, AttributeError) as fault:
        raise InputError(
            f"{path} is no archive of torch.export.save, or it was cut off while it was copied ({fault_text(fault)})."
        ) from fault
    if not any("/models/" in name for name in names) or not configs:
        raise InputError(
            f"{path} holds no exported program of this format; save it again with torch.export.save of torch 2.9 or newer."
        )
    if pickled:
        raise InputError(f"{path} holds {pickled[0]!r} as a pickle, which could run code when read; save plain tensors only.")
    for name, content in samples.items():
        try:
            if content:
                torch.load(io.BytesIO(content), weights_only=True)
        except Exception as fault:  # the restricted unpickler raises several types
            raise InputError(
                f"The example inputs in {path} ({name}) are more than tensors in plain containers, and are not unpickled."
            ) from fault
