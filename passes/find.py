"""`find`: every place of a net where a rewrite is possible, and a sentence for every place where one was refused."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..cost_model.net import Net, Value
from ..cost_model.sites import LinearSite, Miss, Site, kind_of
from .find_attention import find_attention
from .find_conv import find_conv
from .find_elementwise import find_elementwise
from .find_embedding import find_embedding
from .find_epilogue import with_epilogues
from .find_linear import find_linear
from .find_region import find_region


@dataclass(frozen=True)
class Found:
    """`sites` of all kinds, with ids that are all different: linear ones first, each kind in topological order; and the `misses`."""

    sites: tuple[Site, ...]
    misses: tuple[Miss, ...]


def find(net: Net) -> Found:
    """Looks for every kind of site in the main graph. What an If, a Loop or a Scan holds is refused, one Miss for each place.

    Deterministic, changes nothing, and linear in the number of ops.
    """
    sites, misses = _main(net)
    return Found(sites, (*misses, *_nested(net)))


def _main(net: Net) -> tuple[tuple[Site, ...], tuple[Miss, ...]]:
    linears, missed = find_linear(net)
    convs, refused = find_conv(net)
    found = [finder(net) for finder in (find_attention, find_region, find_embedding)]
    sites: list[Site] = [*with_epilogues(net, linears), *convs, *(site for part, _ in found for site in part)]
    # Without an operator set the net is torch's, which has no operators on codes.
    sites += find_elementwise(net, convs, {op for site in sites for op in site.ops}) if net.opset else ()
    return _distinct(sites), (*missed, *refused, *(miss for _, part in found for miss in part))


def _nested(net: Net) -> list[Miss]:
    misses: list[Miss] = []
    for op in net.ops.values():
        for inner in op.branches:
            visible: ChainMap[str, Value] = ChainMap(inner.values, net.values)  # type: ignore[arg-type]
            branch = Net(inner.ops, visible, inner.inputs, inner.outputs)
            sites, refused = _main(branch)
            for site in sites:
                where = f"is inside a branch of {op.kind} {op.id}; only ops of the main graph are rewritten"
                misses.append(Miss(site.ops[-1], kind_of(site), f"The {kind_of(site)} site {site.id} {where}."))
            misses += [*refused, *_nested(branch)]
    return misses


def _distinct(sites: Sequence[Site]) -> tuple[Site, ...]:
    """A site whose name an earlier one has is called after its last op and, if need be, its kind."""
    taken: set[str] = set()
    named: list[Site] = []
    for site in sites:
        name = next(n for n in _names(site) if n not in taken)
        taken.add(name)
        named.append(site if name == site.id else replace(site, id=name))
    return tuple(named)


def _names(site: Site) -> tuple[str, ...]:
    if isinstance(site, LinearSite):
        return (site.id,)
    return site.id, site.ops[-1], f"{site.id}.{kind_of(site)}", f"{site.ops[-1]}.{kind_of(site)}"
