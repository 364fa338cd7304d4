"""`Counts`: the work of one op in flops, compulsory bytes and launches, before any device gives it a price."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod

from . import kinds
from .collectives import group_known, link_bytes
from .counts_flops import flops
from .counts_nests import Nests, nests
from .counts_traffic import SILENT, Traffic, is_constant, leaves, root, traffic
from .net import Net, Op
from .operand_sizes import Unknown
from .tile_reuse import Repeated
from .weight_copy import copied_bytes


@dataclass(frozen=True)
class Counts:
    """Work of one op or of several. `flops` by dtype (see `counts_flops`), `read` and `written` bytes, `activations` those of these
    bytes that are no constants, value by value [B] (a device with room keeps such a value on the chip), `link` bytes that cross to
    another device, kernel `launches`, output `elements`. `known` is False when something could not be counted. `nests` say how much more
    than its compulsory bytes a product, convolution or attention moves past a memory that does not hold its operands.
    """

    flops: Mapping[str, float] = field(default_factory=dict)
    read: float = 0.0
    written: float = 0.0
    activations: tuple[float, ...] = ()
    link: float = 0.0
    launches: int = 0
    known: bool = True
    elements: float = 0.0
    nests: Nests = ()

    @property
    def bytes(self) -> float:
        """Compulsory bytes, read and written [B]."""
        return self.read + self.written

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            {key: self.flops.get(key, 0.0) + other.flops.get(key, 0.0) for key in {**self.flops, **other.flops}},
            self.read + other.read,
            self.written + other.written,
            self.activations + other.activations,
            self.link + other.link,
            self.launches + other.launches,
            self.known and other.known,
            self.elements + other.elements,
            self.nests + other.nests,
        )

    def times(self, trips: int) -> Counts:
        """The work of as many runs, each on values of its own."""
        return Counts(
            {key: flops * trips for key, flops in self.flops.items()},
            self.read * trips,
            self.written * trips,
            self.activations * trips,
            self.link * trips,
            self.launches * trips,
            self.known,
            self.elements * trips,
            tuple(Repeated(nest, trips) for nest in self.nests),
        )


def count(op: Op, net: Net) -> Counts:
    """The work of one op at the shapes of `net`. An op outside the vocabulary, or with a shape that is not known, keeps its
    compulsory bytes and has `known` False. `if` counts the branch that is known to be taken (attribute "taken"), else its most
    expensive one; `loop` and `scan` count their body as often as it runs (attribute "trips"), once and not known where that is open."""
    if op.kind in SILENT:
        return Counts(elements=_elements(op, net))
    if op.kind in kinds.CONTROL:
        return _control(op, net)
    moved = traffic(op, net)
    known = moved.known and op.kind in kinds.KINDS and group_known(op)
    work: Mapping[str, float] = {}
    loops: Nests = ()
    if op.kind in kinds.KINDS:
        try:
            work = flops(op, net)
            loops = nests(op, net)
        except Unknown:
            known = False
    found = _counts(work, moved, net, known, _elements(op, net), loops, _kernels(op, net))
    copy = copied_bytes(op, net)
    scratch = (copy, copy) if copy else ()
    return replace(
        found,
        read=found.read + copy,
        written=found.written + copy,
        activations=(*found.activations, *scratch),
        link=link_bytes(op, net),
    )


def _kernels(op: Op, net: Net) -> int:
    """Kernels that run for one op. Weights of few bits may be expanded by one before. A module of ours may have one before its own, which
    rounds the inputs ("computed_in"), and with few rows ("split_rows" at most) one behind it, which adds up parts of its sums."""
    few = op.attributes.get("split_rows")
    rows = prod((net.shape(op.inputs[0]) or (1,))[:-1]) if few else 0
    return 1 + (copied_bytes(op, net) > 0) + ("computed_in" in op.attributes) + (0 < rows <= int(few or 0))


def count_group(ops: Iterable[Op], net: Net) -> Counts:
    """The work of `ops` as one kernel: all their flops, one launch, and only the bytes that cross the edge of the group.

    A value read by several members is read once, as much of it as the member that reads most; so the bytes never exceed those of the
    members apart (I/O of a fused sub-graph: its live inputs and outputs). Each member keeps its nests.
    """
    members = {op.id: op for op in ops}
    parts = [count(op, net) for op in members.values()]
    reads: dict[str, float] = {}
    writes: dict[str, float] = {}
    known: dict[str, bool] = {}
    for op in members.values():
        moved = traffic(op, net)
        for name, size in moved.reads.items():
            source = root(name, net, members)
            if (maker := net.producer(source)) is None or maker.id not in members:
                reads[source] = max(reads.get(source, 0.0), size)
        writes.update({name: size for name, size in moved.writes.items() if leaves(name, net, members, known, members)})
    total = sum(parts, Counts())
    edge = Traffic(reads, writes, total.known)
    found = _counts(total.flops, edge, net, total.known, total.elements, total.nests, min(1, total.launches))
    return replace(found, link=total.link)


def _counts(
    work: Mapping[str, float], moved: Traffic, net: Net, known: bool, elements: float, loops: Nests, launches: int = 1
) -> Counts:
    activations = [size for name, size in moved.reads.items() if not is_constant(name, net)]
    activations += moved.writes.values()
    read, written = sum(moved.reads.values()), sum(moved.writes.values())
    return Counts(work, read, written, tuple(activations), launches=launches, known=known, elements=elements, nests=loops)


def _elements(op: Op, net: Net) -> float:
    return float(sum(prod(shape) for shape in map(net.shape, filter(None, op.outputs)) if shape is not None))


def _control(op: Op, net: Net) -> Counts:
    taken = op.attributes.get("taken")
    branches = op.branches if taken is None else op.branches[taken : taken + 1]
    nets = [with_captured(body, net) for body in branches]
    bodies = [sum((count(inner, body) for inner in body.ops.values()), Counts(launches=1)) for body in nets]
    if not bodies:
        return Counts(launches=1, known=False)
    costly = max(bodies, key=lambda body: (sum(body.flops.values()) + body.bytes, body.launches))
    if op.kind == "if":
        return replace(costly, known=all(body.known for body in bodies))
    trips = op.attributes.get("trips")
    return replace(costly, known=False) if trips is None else costly.times(trips)


def with_captured(body: Net, around: Net) -> Net:
    """A nested net with the values that it reads from the net around it."""
    captured = {name: around.values[name] for name in body.captured if name in around.values and name not in body.values}
    return replace(body, values={**captured, **body.values}) if captured else body
