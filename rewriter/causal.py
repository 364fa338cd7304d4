"""Which earlier positions an attention sees, from the mask that the traced graph itself computes: no weight of a layer is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
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
    for mask in site.masks or (SiteMask(site.mask, site.mask_kind),):
        array = _array(program, backend, graph, net, replace(site, mask=mask.value))
        seen.append(_attends(array * mask.factor if mask.kind == "additive" else array, mask.kind))
    attends = np.logical_and.reduce(np.broadcast_arrays(*seen))
    if attends.ndim < 2 or attends.shape[-2] < 2 or np.triu(attends, 1).any():
        raise InputError(f"Attention {site.id} lets a position see later ones.")
    return int(attends[-1].sum())


def with_causal_masks(program: Program, backend: Backend, graph: Any, net: Net, sites: Sequence[Site]) -> tuple[Site, ...]:
    """`sites` with `mask_is_causal` where that holds at the sizes of `net`, among those that are long enough for it to matter: a window
    that is wider than they are is not seen. Layers that share a mask are judged once."""
    hold = computed_from_contents(net)
    known: dict[tuple[SiteMask, ...], bool] = {}

    def judged(site: AttentionSite) -> AttentionSite:
        masks = site.masks or (SiteMask(site.mask, site.mask_kind),)
        if masks not in known:
            known[masks] = not hold.intersection(mask.value for mask in masks) and _sees_all_before(
                program, backend, graph, net, site
            )
        return replace(site, mask_is_causal=known[masks])

    def matters(site: Site) -> bool:
        return isinstance(site, AttentionSite) and bool(site.mask) and site.query_length == site.key_length > LEAST_CAUSAL

    return tuple(judged(site) if isinstance(site, AttentionSite) and matters(site) else site for site in sites)


def _sees_all_before(program: Program, backend: Backend, graph: Any, net: Net, site: AttentionSite) -> bool:
    """Whether the masks add the same to all scores of a row up to its own position, and take all weight from the later ones: a bias by
    distance, or a gap among the earlier positions, would be lost with the mask."""
    length, total = site.query_length, np.zeros((1, 1))
    for mask in site.masks or (SiteMask(site.mask, site.mask_kind),):
        if mask.axes:
            return False
        try:
            array = _array(program, backend, graph, net, replace(site, mask=mask.value))
        except InputError:
            return False
        if mask.kind == "additive":
            total = total + mask.factor * array.astype(np.float64)
        else:
            total = total + np.where(array == (mask.kind == "boolean"), 0.0, mask.fill)
    if total.shape[-2:] != (length, length):
        return False
    earlier = np.tri(length, dtype=bool)
    with np.errstate(invalid="ignore"):
        apart = total - np.diagonal(total, axis1=-2, axis2=-1)[..., None]
    return bool(np.where(earlier, apart == 0, apart <= MASKED).all())


def _attends(mask: np.ndarray, kind: str) -> np.ndarray:
    """[N, S]: whether some head of some sequence attends."""
    if kind == "additive":
        mask = mask.astype(np.float32)
        attends = mask > mask.max(-1, keepdims=True) - NEGLIGIBLE
    else:
        attends = mask if kind == "boolean" else ~mask
    return np.any(attends, axis=tuple(range(attends.ndim - 2))) if attends.ndim > 2 else attends


def _array(program: Program, backend: Backend, graph: Any, net: Net, site: AttentionSite) -> np.ndarray:
    """The values of the mask at the shapes of `net`."""
    constant = net.array(site.mask)
    if constant is not None:
        return constant
    ops = _above(net, site)
    try:
        micro = backend.extract(graph, net, ops)
        view = backend.view(micro, {})
        with backend.runner(micro) as run:
            results = run({name: _feed(program, name, view) for name in view.inputs})
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


def _feed(program: Program, name: str, view: Net) -> np.ndarray:
    """Ones (valid tokens, nothing padded), or 0, 1, 2 ... for an input whose sample counts so."""
    value = view.values[name]
    shape, dtype = value.shape or (), np.dtype(value.dtype or "int64")
    sample = np.atleast_1d(program.sample.get(name, 1))
    counts = sample.shape[-1] > 1 and bool((sample == np.arange(sample.shape[-1])).all())
    return np.broadcast_to(np.arange(shape[-1]), shape).astype(dtype) if counts else np.ones(shape, dtype)
