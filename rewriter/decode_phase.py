"""The nets of a workload's phases: a phase with a context is a model that was traced without a cache, seen as it decodes with one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..cost_model import kinds
from ..cost_model.decode import Cache, decode_net, find_caches, mixing_op, position_rows
from ..cost_model.errors import InputError
from ..cost_model.net import Net, Op
from ..cost_model.plan import Phase
from ..cost_model.program import Program
from ..cost_model.sites import AttentionSite, Miss
from ..passes.find import find
from .backend import Backend
from .causal import positions_seen

UNSEEN = "Masks were looked at up to {} positions: a longer window of attention {} would be priced as the whole context."

PROBE_LENGTH = 24
"""Positions of the view in which sites and the axes of positions are found; more are needed to see a window."""

LONGEST_MASK = {"torch": 4609, "onnxruntime": 577}
"""Most positions at which a mask is computed to look for a window. Views of ONNX graphs may have to run the model, so they get fewer."""


@dataclass(frozen=True, eq=False)
class Decoder:
    """A causal model that decodes: `caches` belong to one context and one number of new positions, and serve any batch. `unseen` is a
    sentence where a longer window than was looked for would not have been seen, else ""."""

    backend: Backend
    graph: Any
    caches: tuple[Cache, ...]
    unseen: str = ""

    def net(self, shapes: Mapping[str, tuple[int, ...]]) -> Net:
        """The net of one call at the shapes of the new positions."""
        return decode_net(self.backend.view(self.graph, shapes), self.caches)


def phase_net(program: Program, backend: Backend, graph: Any, phase: Phase) -> Net:
    """The net of one call of a phase. Raises InputError as `decoder` does, for one with a context."""
    if phase.context:
        return decoder(program, backend, graph, phase).net(phase.shapes)
    return backend.view(graph, phase.shapes)


def decoder(program: Program, backend: Backend, graph: Any, phase: Phase, said: str = "") -> Decoder:
    """`graph`, which may be the program's own or a cleaned one, as it decodes at the context of `phase`.

    Raises InputError, one sentence that starts with `said`: no input with an axis of positions, no attention, one that is not causal or
    cannot be followed, a cache or a memory that the model already has, another op that mixes positions, or a table of positions
    with fewer rows.
    """
    said = said or f"The phase {phase.name} has a context of {phase.context}, which {program.source} cannot have"
    new = _new_positions(program, phase)
    if new is None:
        raise InputError(f"{said}: no input has a second axis, of positions, that may change; trace it with a dynamic one.")
    length = PROBE_LENGTH if new != PROBE_LENGTH else PROBE_LENGTH + 1
    short, long = (backend.view(graph, _shapes(program, phase, positions)) for positions in (new, length))
    sites = _sites(long, short, said)
    mixing = mixing_op(short, long)
    if mixing is not None:
        raise InputError(
            f"{said}: {mixing.kind} {mixing.id} mixes positions too, and keeps a state that is not known; give a model in which "
            "attention alone does."
        )
    wide = max(length, min(phase.context + new, LONGEST_MASK[program.runtime]))
    net = backend.view(graph, _shapes(program, phase, wide))
    seen: dict[str, int] = {}
    unseen: list[str] = []
    known: dict[tuple[str, str, bool], int] = {}
    for site in sites:
        key = (site.mask, site.mask_kind, site.causal)
        try:
            known[key] = known[key] if key in known else positions_seen(program, backend, graph, net, site)
        except InputError as fault:
            raise InputError(f"{said}: {str(fault).rstrip('.')}; give a causal model, whose mask can be computed.") from fault
        full = known[key] == wide
        seen[site.id] = phase.context + new if full else min(known[key], phase.context + new)
        unseen += [site.id] if full and not site.causal and wide < phase.context + new else []
    rows = position_rows(short, long)
    if rows is not None and rows < phase.context + new:
        raise InputError(f"{said}: its table of positions has {rows} rows; give a context of at most {rows - new}.")
    caches = find_caches(short, long, sites, seen)
    if isinstance(caches, Miss):
        raise InputError(f"{said}: {caches.reason}")
    return Decoder(backend, graph, caches, _unseen(wide, unseen))


def _unseen(wide: int, sites: Sequence[str]) -> str:
    more = f" and {len(sites) - 1} more" if len(sites) > 1 else ""
    return UNSEEN.format(wide, sites[0] + more) if sites else ""


def _new_positions(program: Program, phase: Phase) -> int | None:
    """The size of the second axis of the first input where it may change."""
    for name in program.inputs:
        if 1 in program.dynamic.get(name, {}):
            return phase.shapes[name][1]
    return None


def _shapes(program: Program, phase: Phase, positions: int) -> dict[str, tuple[int, ...]]:
    """The shapes of one sequence with that many positions: every axis with the symbol of the positions, or of the batch, changes."""
    free = [program.dynamic.get(name, {}) for name in program.inputs]
    size = {axes[0]: 1 for axes in free if 0 in axes} | {next(axes[1] for axes in free if 1 in axes): positions}
    return {
        name: tuple(size.get(axes.get(axis, ""), own) for axis, own in enumerate(phase.shapes[name]))
        for name, axes in zip(program.inputs, free, strict=True)
    }


def _sites(long: Net, short: Net, said: str) -> tuple[AttentionSite, ...]:
    found = find(long)
    for miss in found.misses:
        op = long.ops.get(miss.op)
        if miss.kind == "attention" and op is not None and _over_positions(op, long, short):
            raise InputError(f"{said}: {miss.reason}")
    sites = tuple(site for site in found.sites if isinstance(site, AttentionSite))
    if not sites:
        raise InputError(
            f"{said}: no attention was found in it, and nothing else is known to keep a cache; give a causal transformer."
        )
    return sites


def _over_positions(op: Op, long: Net, short: Net) -> bool:
    """Whether an op that was refused as attention could be one: a softmax over classes or experts keeps its width at every length."""
    return op.kind in kinds.ATTENTION or (long.shape(op.output) or ())[-1:] != (short.shape(op.output) or ())[-1:]
