"""The masks that a walk met on its way up from a softmax, as an attention site states them: in four axes, in the order of the scores."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..cost_model.net import Net
from ..cost_model.sites import SiteMask
from .attention_walk import climb
from .axes import Layout, regroup

AXES = "BHNS"

ABSORBING = -1e30
"""A float32 this low stays what it is when an ordinary score is added, so that adding it and writing it are the same."""


@dataclass(frozen=True)
class Mask:
    """A mask as the walk met it: `factor` times `value` is added to the scores ("additive"), or `fill` takes their place where `value`
    does not say to attend ("boolean", and "boolean_inverted" the other way round)."""

    value: str
    kind: str
    layout: Layout
    factor: float = 1.0
    fill: float = -math.inf


def stated(net: Net, masks: Sequence[Mask], scores: Layout) -> tuple[SiteMask, ...] | None:
    """The masks in the order in which the scores meet them, where `masks` is in the order of the walk; None if one cannot be told as
    axes of `scores`, the layout of [B, H, N, S]."""
    found = []
    for mask in reversed(masks):
        fitted = _fitted(net, mask, scores)
        if fitted is None:
            return None
        value, axes = fitted
        found.append(SiteMask(value, mask.kind, mask.factor, mask.fill, axes))
    return tuple(found)


def summary(masks: Sequence[SiteMask]) -> tuple[str, str]:
    """`mask` and `mask_kind` of a site: those of the only mask where they say it all."""
    if not masks:
        return "", "additive"
    plain = len(masks) == 1 and masks[0].factor == 1.0 and not masks[0].axes
    return masks[0].value, masks[0].kind if plain else "several"


def added_to_low(masks: Sequence[Mask]) -> Mask | None:
    """A mask that is added to what an earlier one has filled with a number to which that makes a difference; None if none is.
    `masks` is in the order of the walk."""
    added: Mask | None = None
    for mask in masks:
        if mask.kind == "additive":
            added = mask
        elif added is not None and mask.fill > ABSORBING:
            return added
    return None


def fits(net: Net, value: str, layout: Layout, scores: Layout) -> str | None:
    """The value, or a view of it higher up, that broadcasts over `scores`; None if there is none."""
    for reach in climb(net, value, layout, moves_only=True):
        rank = len(reach.layout)
        if rank <= len(scores) and all(
            found in ((), full) for found, full in zip(reach.layout, scores[len(scores) - rank :], strict=True)
        ):
            return reach.value
    return None


def _fitted(net: Net, mask: Mask, scores: Layout) -> tuple[str, str] | None:
    """(value, its axes) of the mask: "" where it broadcasts as it is, else the axes in whose shape it must be seen first."""
    found = fits(net, mask.value, mask.layout, scores)
    if found is not None:
        return found, ""
    sizes = [math.prod(part.size for part in dimension) for dimension in scores]
    for there in itertools.product((True, False), repeat=len(scores)):
        shape = [size if held else 1 for size, held in zip(sizes, there, strict=True)]
        wanted = tuple(axis if held else () for axis, held in zip(scores, there, strict=True))
        if regroup(mask.layout, shape) == wanted:
            return mask.value, "".join(letter if held else "1" for letter, held in zip(AXES, there, strict=True))
    return None
