"""Seconds of ops from the measured law of the kernel that really runs them: a calibrated profile's "time.<runtime>.<kernel>.<feature>".

A law is linear in the work of `kernel_work`, with coefficients fitted on microbenchmarks of that kernel alone (`szilard calibrate`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from . import kinds
from .device import Device
from .kernel_work import COMPARE, COPY, REDUCE, RUN, VIEW, net_work
from .net import Net

TIME = "time"
_STAND_INS: tuple[tuple[frozenset[str], tuple[str, ...]], ...] = (
    (frozenset(["cast"]), ("cast.float32-int64",)),
    (kinds.UNARY, ("neg",)),
    (kinds.BINARY | kinds.TERNARY, ("add",)),
    (kinds.NORM, ("layer_norm",)),
    (kinds.SOFTMAX, ("softmax",)),
    (kinds.ATTENTION, ("attention",)),
    (kinds.RECURRENT, ("lstm",)),
    (kinds.SCAN | kinds.ORDER, (REDUCE,)),
    (kinds.GATHER | kinds.SCATTER, ("gather", "embedding")),
    (kinds.MATERIALISED, (COPY,)),
    (frozenset([COMPARE]), ("add",)),
    (frozenset(["loop"]), ("scan",)),
    (kinds.FREE | kinds.VIEW, (VIEW,)),
)
"""The laws that stand in for a kind that was not measured: those of measured kinds which move as many bytes in the same way."""

_LEVELS = {"near_byte": 0, "cached_byte": 1, "memory_byte": 2, "cached_weight_byte": 1, "memory_weight_byte": 2}
"""How far from a core the bytes of a feature lie."""


def caches(device: Device) -> tuple[float, float]:
    """What the cores' own caches and the last one hold [B], the limits between the byte features."""
    last = device.value("capacity.cache")
    return device.values.get("capacity.near", last / 4), last


def has_kernel_times(device: Device, runtime: str) -> bool:
    """Whether the profile holds measured laws for a runtime ("onnxruntime" or "torch")."""
    return any(key.startswith(f"{TIME}.{runtime}.") for key in device.coefficients)


def run_seconds(device: Device, runtime: str) -> dict[str, float]:
    """What a call of a whole model takes before and after its ops: coefficient key -> seconds; {} if it was not measured."""
    key = f"{TIME}.{runtime}.{RUN}.call"
    return {key: device.value(key)} if key in device.coefficients else {}


def kernel_seconds(net: Net, device: Device, runtime: str) -> dict[str, dict[str, float]]:
    """Op id -> seconds by the coefficient that sets them, for each op whose kernel has a law that prices all of its work; an op of no known
    kernel, or with work that nothing was fitted for, is left out.

    The ops of a branch that is taken are counted with the op that holds the branch, which is left out if one of them is.
    """
    measured = _measured_kernels(device, runtime)
    found: dict[str, dict[str, float]] = {}
    unknown = set()
    owners = _owners(net)
    for op_id, (kernel, work) in net_work(net, caches(device)).items():
        owner = owners[op_id]
        for law in laws_of(kernel, measured):
            keys = {feature: _coefficient(f"{TIME}.{runtime}.{law}", feature, device) for feature in work}
            if all(keys.values()):
                _add(found.setdefault(owner, {}), work, keys, device)
                break
        else:
            unknown.add(owner)
    return {owner: parts for owner, parts in found.items() if owner not in unknown}


def _add(parts: dict[str, float], work: Mapping[str, float], keys: Mapping[str, str | None], device: Device) -> None:
    for feature, key in keys.items():
        if key is not None:
            parts[key] = parts.get(key, 0.0) + work[feature] * device.coefficients[key].value


def _coefficient(law: str, feature: str, device: Device) -> str | None:
    """The key of the feature's coefficient, or, where no microbenchmark reached that level, of the nearest level that one did: first of
    bytes of the same sort (weights or others), else of the other."""
    if feature not in _LEVELS:
        return f"{law}.{feature}" if f"{law}.{feature}" in device.coefficients else None

    def distance(level: str) -> tuple[bool, int, int]:
        return ("weight" in level) != ("weight" in feature), abs(_LEVELS[level] - _LEVELS[feature]), -_LEVELS[level]

    names = (f"{law}.{level}" for level in sorted(_LEVELS, key=distance))
    return next((name for name in names if name in device.coefficients), None)


def _measured_kernels(device: Device, runtime: str) -> frozenset[str]:
    start = f"{TIME}.{runtime}."
    return frozenset(key.removeprefix(start).rpartition(".")[0] for key in device.coefficients if key.startswith(start))


def laws_of(kernel: str, measured: frozenset[str]) -> Iterator[str]:
    """The measured kernels that can serve `kernel`, best first: itself, its kind without refinements, and the stand-ins of its kind."""
    parts = kernel.split(".")
    wanted = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    for law in next((laws for kind, laws in _STAND_INS if parts[0] in kind), ()):
        wanted += [".".join((law, *parts[1:])), law]
    return (law for law in dict.fromkeys(wanted) if law in measured)


def _owners(net: Net) -> dict[str, str]:
    """Op id, those of branches included -> id of the op of `net` that runs it."""

    def inside(body: Net) -> list[str]:
        return [name for op in body.ops.values() for name in (op.id, *(n for b in op.branches for n in inside(b)))]

    return {name: op.id for op in net.ops.values() for name in (op.id, *(n for body in op.branches for n in inside(body)))}
