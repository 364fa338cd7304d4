"""Seconds of ops from the measured law of the kernel that really runs them: a calibrated profile's "time.<runtime>.<kernel>.<feature>".

A law is linear in the work of `kernel_work`, with coefficients fitted on microbenchmarks of that kernel alone (`szilard calibrate`).
"""

from __future__ import annotations

from . import kinds
from .device import Device
from .kernel_work import COMPARE, COPY, REDUCE, RUN, VIEW, net_work
from .net import Net

TIME = "time"
_STAND_INS = (
    (frozenset(["cast"]), "cast.float32-int64"),
    (kinds.UNARY, "neg"),
    (kinds.BINARY | kinds.TERNARY, "add"),
    (kinds.NORM, "layer_norm"),
    (kinds.SOFTMAX, "softmax"),
    (kinds.ATTENTION, "attention"),
    (kinds.RECURRENT, "lstm"),
    (kinds.SCAN | kinds.ORDER, REDUCE),
    (kinds.GATHER | kinds.SCATTER, "gather"),
    (kinds.MATERIALISED, COPY),
    (frozenset([COMPARE]), "add"),
    (kinds.FREE | kinds.VIEW, VIEW),
)
"""The law that stands in for a kind that was not measured: that of a measured kind which moves as many bytes in the same way."""

_LEVELS = (("near_byte", "cached_byte", "memory_byte"), ("cached_weight_byte", "memory_weight_byte"))


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
    """Op id -> seconds by the coefficient that sets them, for each op whose kernel has a law; an op of no known kernel is left out.

    The ops of a branch that is taken are counted with the op that holds the branch.
    """
    measured = _measured_kernels(device, runtime)
    found: dict[str, dict[str, float]] = {}
    owners = _owners(net)
    for op_id, (kernel, work) in net_work(net, caches(device)).items():
        law = law_of(kernel, measured)
        if law is None:
            continue
        parts = found.setdefault(owners[op_id], {})
        for feature, amount in work.items():
            key = _coefficient(f"{TIME}.{runtime}.{law}", feature, device)
            if key is not None:
                parts[key] = parts.get(key, 0.0) + amount * device.coefficients[key].value
    return found


def _coefficient(law: str, feature: str, device: Device) -> str | None:
    """The key of the feature's coefficient, or, where no microbenchmark reached that level, of the nearest level that one did."""
    for levels in _LEVELS:
        if feature in levels:
            place = levels.index(feature)
            nearest = sorted(levels, key=lambda level: (abs(levels.index(level) - place), -levels.index(level)))
            return next((f"{law}.{level}" for level in nearest if f"{law}.{level}" in device.coefficients), None)
    return f"{law}.{feature}" if f"{law}.{feature}" in device.coefficients else None


def _measured_kernels(device: Device, runtime: str) -> frozenset[str]:
    start = f"{TIME}.{runtime}."
    return frozenset(key.removeprefix(start).rpartition(".")[0] for key in device.coefficients if key.startswith(start))


def law_of(kernel: str, measured: frozenset[str]) -> str | None:
    """The measured kernel that serves `kernel`: itself, its kind without refinements, or the stand-in of its kind."""
    parts = kernel.split(".")
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in measured:
            return ".".join(parts[:length])
    for kind, law in _STAND_INS:
        if parts[0] in kind:
            refined = ".".join((law, *parts[1:]))
            return refined if refined in measured else law if law in measured else None
    return None


def _owners(net: Net) -> dict[str, str]:
    """Op id, those of branches included -> id of the op of `net` that runs it."""

    def inside(body: Net) -> list[str]:
        return [name for op in body.ops.values() for name in (op.id, *(n for b in op.branches for n in inside(b)))]

    return {name: op.id for op in net.ops.values() for name in (op.id, *(n for body in op.branches for n in inside(body)))}
