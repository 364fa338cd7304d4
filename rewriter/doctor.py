"""What is installed and what this machine can do, as findings with a sentence each: for `szilard doctor`."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-training")
_EXTRAS = {"triton": "GPU kernels are neither compiled nor run", "transformers": "hf:DIR models cannot be loaded"}


@dataclass(frozen=True)
class Finding:
    """`state` is "ok", "note" (something is not there, and what that means) or "problem" (something must be repaired)."""

    name: str
    state: str
    sentence: str


def examine() -> tuple[Finding, ...]:
    """Every finding, in a fixed order. A check that itself fails becomes a problem with the fault in its sentence."""
    checks: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ("python", lambda: Finding("python", "ok", f"Python {sys.version.split()[0]} at {sys.executable}.")),
        ("torch", _torch),
        ("onnxruntime", lambda: onnxruntime_finding(_installed(_RUNTIMES))),
        ("cores", _cores),
        ("gpu", _gpu),
        *((name, lambda name=name: _extra(name)) for name in _EXTRAS),
        ("energy counter", _counter),
        ("cache", _cache),
    )
    return tuple(_guarded(name, check) for name, check in checks)


def _guarded(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except Exception as fault:  # a broken installation raises anything; the sentence carries it on
        return Finding(
            name,
            "problem",
            f"The check failed with {type(fault).__name__}: {str(fault).splitlines()[0] if str(fault) else ''}.",
        )


def onnxruntime_finding(installed: dict[str, str]) -> Finding:
    """What the installed onnxruntime distributions (name -> version) mean: two of them overwrite each other's files."""
    listed = " and ".join(f"{name} {version}" for name, version in installed.items())
    if not installed:
        return Finding(
            "onnxruntime", "problem", "onnxruntime is not installed; run `pip install 'szilard[gpu]'` or `'szilard[cpu]'`."
        )
    if len(installed) > 1:
        remedy = f"run `pip uninstall -y {' '.join(installed)}`, then `pip install 'szilard[gpu]'` or `'szilard[cpu]'`"
        return Finding("onnxruntime", "problem", f"{listed} are both installed and overwrite each other's files; {remedy}.")
    runtime = importlib.import_module("onnxruntime")
    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in runtime.get_available_providers())
    return Finding("onnxruntime", "ok", f"{listed}, built with the providers {providers}.")


def supported_range(requirement: str, version: str) -> Finding:
    """Whether `version` lies in a requirement such as "torch<2.16,>=2.11"; only its lower and upper bounds count."""
    name = re.split(r"[^\w-]", requirement)[0]
    bounds = {sign: _release(text) for sign, text in re.findall(r"(>=|<)\s*([\d.]+)", requirement)}
    inside = bounds.get(">=", ()) <= _release(version) and ("<" not in bounds or _release(version) < bounds["<"])
    words = "" if inside else f", which is outside the supported range {requirement.removeprefix(name)}; install one inside it"
    return Finding(name, "ok" if inside else "problem", f"{name} {version}{words}.")


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.match(r"[\d.]*", version)[0].split(".") if part)  # type: ignore[index]


def _installed(names: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _torch() -> Finding:
    version = _installed(("torch",)).get("torch")
    if version is None:
        return Finding("torch", "problem", "torch is not installed; run `pip install szilard`.")
    wanted = [text for text in metadata.requires("szilard") or () if re.match(r"torch\b", text)]
    return supported_range(wanted[0] if wanted else "torch", version)


def _cores() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding("cores", "ok", f"{usable} of {os.cpu_count()} cores may be used; timings use that many threads.")


def _gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("gpu", "note", "No CUDA device: GPU targets are priced from their profiles, never timed.")
    return Finding("gpu", "ok", f"{torch.cuda.get_device_name(0)} with CUDA {torch.version.cuda}.")


def _extra(name: str) -> Finding:
    version = _installed((name,)).get(name)
    if version is None:
        return Finding(name, "note", f"{name} is not installed: {_EXTRAS[name]}.")
    return Finding(name, "ok", f"{name} {version}.")


def _counter() -> Finding:
    from ..cost_model.meter import open_meter

    meter = open_meter()
    if meter.status == "measured":
        return Finding("energy counter", "ok", "Joules can be measured here.")
    return Finding("energy counter", "note", f"Joules are modelled here, never measured: {meter.reason}")


def _cache() -> Finding:
    import platformdirs

    folder = Path(platformdirs.user_cache_dir("szilard"))
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if os.access(nearest, os.W_OK | os.X_OK):
        return Finding("cache", "ok", f"Timings are kept in {folder}.")
    return Finding(
        "cache", "problem", f"{folder} cannot be written, so every run times its candidates again; make it writable."
    )
