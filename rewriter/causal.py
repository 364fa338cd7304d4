"""Which earlier positions an attention sees, from the mask that the traced graph itself computes: no weight of a layer is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ..cost_model import kinds
from ..cost_model.contents import computed_from_contents
from ..cost_model.errors import InputError, SzilardError
from ..cost_model.net import Net
from ..cost_model.program import Program
from ..cost_model.sites import AttentionSite, Site, SiteMask
from ..kernels.spectral_attention.crossover import LEAST_CAUSAL
from ..passes.attention_up import MASKED
from .backend import Backend

FARTHEST = 1e8
"""Numbers above this are no distance between positions but stand for "all"."""
NEGLIGIBLE = 100.0
"""An additive mask this far below the largest of its row leaves a weight of exp(-100), which is 0 in float32."""


def positions_seen(program: Program, backend: Backend, graph: Any, net: Net, site: AttentionSite) -> int:
    """How many positions the last of the N positions of `net` (a view of `graph`) sees, itself included: N, or the width of a window.

    Raises InputError, a sentence that starts with the site, where a position sees a later one or where the mask cannot be computed from
    the inputs alone.
    """
    if site.causal:
        return int((net.shape(site.query) or (0, 0, 0, 0))[2])
    if not site.mask:
        raise InputError(f"Attention {site.id} has no mask, so that every position sees the later ones too.")
    seen = []
    for mask in site.every_mask:
        array = _array(program, backend, graph, net, replace(site, mask=mask.value))
        seen.append(_attends(array * mask.factor if mask.kind == "additive" else array, mask.kind))
    attends = np.logical_and.reduce(np.broadcast_arrays(*seen))
    if attends.ndim < 2 or attends.shape[-2] < 2 or np.triu(attends, 1).any():
        raise InputError(f"Attention {site.id} lets a position see later ones.")
    return int(attends[-1].sum())


def with_known_masks(program: Program, backend: Backend, graph: Any, net: Net, sites: Sequence[Site]) -> tuple[Site, ...]:
    """`sites` with `mask_is_causal` and `pads_keys` where they hold at the sizes of `net`; causal ones only where they are
    long enough for it to matter. Layers that share masks are judged once."""
    hold = computed_from_contents(net)
    known: dict[tuple[SiteMask, ...], tuple[bool, bool]] = {}

    def judged(site: AttentionSite) -> AttentionSite:
        masks = site.every_mask
        if masks not in known:
            pads = bool(hold.intersection(mask.value for mask in masks))
            known[masks] = _judged(program, backend, graph, net, site, pads)
        causal, pads = known[masks]
        # Of few positions a causal form would read all anyway.
        long = site.query_length > LEAST_CAUSAL or not (causal or site.causal)
        return replace(site, mask_is_causal=causal, pads_keys=pads) if long else site

    def matters(site: Site) -> bool:
        return isinstance(site, AttentionSite) and bool(site.mask) and site.query_length == site.key_length > 1

    return tuple(judged(site) if isinstance(site, AttentionSite) and matters(site) else site for site in sites)


def _judged(program: Program, backend: Backend, graph: Any, net: Net, site: AttentionSite, pads: bool) -> tuple[bool, bool]:
    """(`mask_is_causal`, `pads_keys`) of a site. What masks do with padding is tried: positions of the inputs that they are made of are
    padded on the left, on the right and in between, and each time just those keys must be hidden, from all queries that see another."""
    length, let_through = site.query_length, partial(_let_through, program, backend, graph, net, site)
    if any(_compares_with_far(net, replace(site, mask=mask.value)) for mask in site.every_mask):
        return False, False
    plain = (let_through(None) or (None,))[0]
    if plain is None or plain.shape[-1] != length or plain.shape[-2] not in (1, length):
        return False, False
    structure = np.tri(length, dtype=bool) if plain.shape[-2] == length and not plain.all() else np.ones((1, length), bool)
    if not (plain == structure).all():
        return False, False
    causal = structure.shape[0] > 1
    if not pads:
        return causal, False
    place = np.arange(length)
    for padding in (place >= length // 3, place < length // 2, (place * 7919) % 5 > 1):
        both = let_through(padding)
        if both is None:
            return False, False
        found, last = both
        expected = structure & padding
        seeing = (expected if not site.causal else expected & np.tri(length, dtype=bool)).any(-1, keepdims=True)
        if not ((found == expected) | ~seeing).all() or (last != padding).any():
            return False, False
    return causal, True


def _compares_with_far(net: Net, site: AttentionSite) -> bool:
    """Whether the mask is made with a constant distance that the positions of `net` do not reach: a window, of which nothing would be
    seen."""
    try:
        ops = [net.ops[name] for name in _above(net, site)]
    except InputError:
        return False
    numbers = [net.scalar(name) for op in ops if op.kind in kinds.COMPARISON | {"add", "sub"} for name in op.inputs if name]
    return any(number is not None and site.key_length <= abs(number) <= FARTHEST for number in numbers)


def _let_through(
    program: Program, backend: Backend, graph: Any, net: Net, site: AttentionSite, padding: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Where all masks together let a score through, [.., 1 or N, S], and the last row by each of them alone (`last_row`). None where they
    cannot be computed, or do more than to hide scores: a bias by distance would be lost with the mask."""
    total, last = np.zeros((1, 1)), np.ones((1, 1), bool)
    for mask in site.every_mask:
        try:
            array = _array(program, backend, graph, net, replace(site, mask=mask.value), padding)
        except InputError:
            return None
        heads = array.shape[-3] if array.ndim > 2 else 1
        if mask.axes or array.ndim < 2 or array.shape[-1] != site.key_length or (padding is not None and heads > 1):
            return None
        # Every sequence of a batch is fed the same.
        array = array[:1] if array.ndim == 4 else array
        if mask.kind == "additive":
            total = total + mask.factor * array.astype(np.float64)
        else:
            total = total + np.where(array == (mask.kind == "boolean"), 0.0, mask.fill)
        last = last & last_row(mask, array)
    with np.errstate(invalid="ignore"):
        apart = total - total.max(-1, keepdims=True)
    through = apart == 0
    hides = through | (apart <= MASKED) | np.isnan(apart)
    return (through, last) if hides.all() else None


def last_row(mask: SiteMask, array: np.ndarray) -> np.ndarray:
    """Which keys the last query sees [1 or B, S] by a mask [.., N or 1, S] of which all heads have the same."""
    row = array[..., -1, :].reshape(-1, array.shape[-1])
    return row * mask.factor > MASKED if mask.kind == "additive" else row == (mask.kind == "boolean")


def _attends(mask: np.ndarray, kind: str) -> np.ndarray:
    """[N, S]: whether some head of some sequence attends."""
    if kind == "additive":
        mask = mask.astype(np.float32)
        attends = mask > mask.max(-1, keepdims=True) - NEGLIGIBLE
    else:
        attends = mask if kind == "boolean" else ~mask
    return np.any(attends, axis=tuple(range(attends.ndim - 2))) if attends.ndim > 2 else attends


def _array(
    program: Program, backend: Backend, graph: Any, net: Net, site: AttentionSite, padding: np.ndarray | None = None
) -> np.ndarray:
    """The values of the mask at the shapes of `net`. `padding` [S] is False where inputs say that nothing stands."""
    constant = net.array(site.mask)
    if constant is not None:
        return constant
    ops = _above(net, site)
    try:
        micro = backend.extract(graph, net, ops)
        view = backend.view(micro, {})
        with backend.runner(micro) as run:
            results = run({name: _feed(program, name, view, padding) for name in view.inputs})
    except SzilardError as fault:
        raise InputError(f"The mask of attention {site.id} cannot be computed ({str(fault).rstrip('.')}).") from fault
    return dict(zip(view.outputs, results.values(), strict=True))[site.mask]


def _above(net: Net, site: AttentionSite) -> Mapping[str, None]:
    """The ops that make the mask."""
    found: dict[str, None] = {}
    waiting = [site.mask]
    while waiting:
        op = net.producer(waiting.pop())
        if op is None or op.id in found:
            continue
        if op.kind in kinds.MATMUL | kinds.ATTENTION:
            raise InputError(f"The mask of attention {site.id} depends on what the layers compute ({op.id}).")
        found[op.id] = None
        waiting += [name for name in op.inputs if name]
    if not found:
        raise InputError(
            f"Attention {site.id} takes its mask {site.mask} as an input, which says nothing about what it lets through."
        )
    return found


def _feed(program: Program, name: str, view: Net, padding: np.ndarray | None) -> np.ndarray:
    """0, 1, 2 ... for an input whose sample counts so; else ones (valid tokens), or `padding` where it has as many positions."""
    value = view.values[name]
    shape, dtype = value.shape or (), np.dtype(value.dtype or "int64")
    sample = np.atleast_1d(program.sample.get(name, 1))
    counts = sample.shape[-1] > 1 and bool((sample == np.arange(sample.shape[-1])).all())
    if counts:
        return np.broadcast_to(np.arange(shape[-1]), shape).astype(dtype)
    if padding is not None and shape and shape[-1] == len(padding):
        return np.broadcast_to(padding, shape).astype(dtype)
    return np.ones(shape, dtype)
