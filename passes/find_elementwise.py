"""`find_elementwise`: adds, Gelus and means between convolutions, which can run on the codes that these read and write."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

from ..cost_model.net import Net, Op
from ..cost_model.sites import ConvSite, ElementwiseSite
from .constants import FLOATS
from .find_conv import with_activation
from .find_linear import plain_add
from .site_names import site_names

TOLERANCE = 1e-4
"""How close the constants of a Gelu have to be, relative: exporters write them with few digits."""


def find_elementwise(net: Net, convs: Sequence[ConvSite], taken: Collection[str]) -> tuple[ElementwiseSite, ...]:
    """In topological order: adds of a value that one of `convs` or another such add wrote, whose sum (behind its clip) a convolution reads;
    Gelus of such values, whether they are one op or the five that exporters write; and means of them over all places. No op is one of
    `taken`. Linear in the number of ops."""
    written, read = {site.result for site in convs}, {site.x for site in convs}
    found: list[ElementwiseSite] = []
    for op in net.ops.values():
        if op.id not in taken and not written.isdisjoint(op.inputs) and (site := _sum(net, op)) and site.result in read:
            found.append(site)
            written.add(site.result)
    for value in written:
        ops = gelu_behind(net, value)
        if ops and not any(op.id in taken for op in ops):
            found.append(_site(net, "gelu", ops, (value,)))
        means = [op for op in net.consumers(value) if op.id not in taken and _is_mean(net, op)]
        found += [_site(net, "mean", (op,), (value,)) for op in means]
    place = {name: index for index, name in enumerate(net.ops)}
    found.sort(key=lambda site: place[site.ops[0]])
    names = site_names([net.ops[site.ops[-1]] for site in found])
    return tuple(replace(site, id=names[site.ops[-1]]) for site in found)


def gelu_behind(net: Net, x: str) -> tuple[Op, ...]:
    """The ops that make the exact Gelu of x, in order; none where it is not there. Five may stand for it: x / sqrt(2) -> Erf -> + 1 -> * x
    -> * 0.5, or with the half taken first."""
    for first in net.consumers(x):
        if first.kind == "gelu" and first.attributes.get("approximate", "none") == "none":
            return (first,)
        erf = _only(net, first, "erf") if _scales(net, first, x, 1 / math.sqrt(2)) else None
        plus = _only(net, erf, "add")
        product = _only(net, plus, "mul")
        if erf is None or plus is None or product is None or _number(net, plus, erf.output) != 1:
            continue
        factor = next((name for name in product.inputs if name != plus.output), "")
        if factor == x:
            last = _only(net, product, "mul")
            if last is not None and _scales(net, last, product.output, 0.5):
                return first, erf, plus, product, last
            continue
        half = net.producer(factor)
        if half is not None and _scales(net, half, x, 0.5) and _only(net, half, "mul") is product:
            return half, first, erf, plus, product
    return ()


def _sum(net: Net, op: Op) -> ElementwiseSite | None:
    if not plain_add(op) or op.inputs[0] == op.inputs[1]:
        return None
    values = [net.values.get(name) for name in (*op.inputs, op.output)]
    shape = net.shape(op.output)
    if shape is None or len(shape) < 3 or any(value is None or value.constant or value.shape != shape for value in values):
        return None
    return with_activation(net, _site(net, "add", (op,), op.inputs)) if net.values[op.output].dtype in FLOATS else None


def _is_mean(net: Net, op: Op) -> bool:
    """Whether an op takes the mean over every axis of [B, C, *] but the first two."""
    shape = net.shape(op.inputs[0])
    if op.kind == "pool_global_avg":
        return shape is not None and len(shape) > 2
    places = list(range(2 - len(shape), 0)) if shape else []
    return op.kind == "reduce_mean" and bool(places) and sorted(op.attributes.get("axes") or ()) == places


def _site(net: Net, function: str, ops: Sequence[Op], reads: tuple[str, ...]) -> ElementwiseSite:
    output = ops[-1].output
    return ElementwiseSite("", tuple(op.id for op in ops), function, reads, output, net.values[output].dtype or "")


def _only(net: Net, op: Op | None, kind: str) -> Op | None:
    """The one reader of an op's result where it is of that kind; None where there are others, or where the net gives it out."""
    readers = () if op is None or net.returns(op.output) else net.consumers(op.output)
    return readers[0] if len(readers) == 1 and readers[0].kind == kind else None


def _number(net: Net, op: Op, other: str) -> float | None:
    """The number that an op of two operands reads beside `other`; None where that is no constant, or more than one number."""
    array = next((net.array(name) for name in op.inputs if name != other and net.values[name].constant), None)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def _scales(net: Net, op: Op, x: str, factor: float) -> bool:
    """Whether an op is x times a number close to `factor`."""
    if op.kind not in ("mul", "div") or x not in op.inputs or (op.kind == "div" and op.inputs[0] != x):
        return False
    number = _number(net, op, x)
    return number is not None and number != 0 and abs((1 / number if op.kind == "div" else number) / factor - 1) < TOLERANCE
