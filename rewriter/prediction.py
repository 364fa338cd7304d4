"""What one call of a model will take on a device, op by op: by the measured laws of the kernels that run where the profile has them,
else by the roofline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..cost_model.cost import Cost, NetCost
from ..cost_model.device import Device
from ..cost_model.kernel_times import has_kernel_times, kernel_seconds, run_seconds
from ..cost_model.kernel_work import kernel_name
from ..cost_model.net import Net
from ..cost_model.price import price_net
from ..cost_model.saving import joules_interval, seconds_interval
from ..cost_model.taken_branches import with_taken_branches


@dataclass(frozen=True, eq=False)
class Prediction:
    """`net` has an op for each kernel that is called, `kernels` their names by op id, `ops` their costs; `total` is their sum and what a
    call takes around them. `seconds` [s] and `joules` [J] are 90 % intervals of the total by the coefficients' own: what the form of
    the model gets wrong is not in them. `notes` are sentences that whoever shows it must show too."""

    net: Net
    device: Device
    kernels: Mapping[str, str]
    ops: Mapping[str, Cost]
    total: Cost
    seconds: tuple[float, float]
    joules: tuple[float, float]
    notes: tuple[str, ...] = ()

    @property
    def table_share(self) -> float:
        """Which share of the seconds comes from measured laws of kernels."""
        return 1.0 - sum(cost.seconds for cost in self.ops.values() if cost.label == "roofline") / (self.total.seconds or 1.0)


def predict(net: Net, device: Device, runtime: str, *, as_run: bool = True, notes: tuple[str, ...] = ()) -> Prediction:
    """The prediction for one call of `net` by `runtime` ("onnxruntime" or "torch"), whose ops should be those that the runtime calls:
    of an ONNX model, the graph after the runtime's own optimiser. Where they are not (`as_run` False) laws of kernels say nothing, and the
    roofline prices all. Branches that are taken are put in place of their `if`s.

    The label of a cost is "table" where its seconds come from measured laws of kernels, "roofline" where any do not.
    """
    flat = with_taken_branches(net)
    priced = _priced(flat, device, runtime) if as_run else price_net(flat, device)
    total = priced.total
    return Prediction(
        net=flat,
        device=device,
        kernels={op.id: kernel_name(op, flat) for op in flat.ops.values()},
        ops=priced.ops,
        total=total,
        seconds=around(seconds_interval(total, device), total.seconds),
        joules=around(joules_interval(total, device), total.joules),
        notes=notes,
    )


def around(interval: tuple[float, float], value: float) -> tuple[float, float]:
    """`interval`, widened where it must be to hold `value`: the median of a sum is not the sum of the medians."""
    return min(interval[0], value), max(interval[1], value)


def _priced(net: Net, device: Device, runtime: str) -> NetCost:
    if not has_kernel_times(device, runtime):
        return price_net(net, device)
    priced = price_net(net, device, seconds=kernel_seconds(net, device, runtime), label="table")
    return replace(priced, total=_with_call(priced.total, device, run_seconds(device, runtime)))


def _with_call(total: Cost, device: Device, run: Mapping[str, float]) -> Cost:
    """`total` with what a call takes before and after its ops, in which the device draws its static power."""
    extra = sum(run.values())
    static = device.value("static") * extra
    return replace(
        total,
        seconds=total.seconds + extra,
        joules=total.joules + static,
        terms={**total.terms, "static": total.terms["static"] + static},
        seconds_by_bound={**total.seconds_by_bound, **run},
    )
