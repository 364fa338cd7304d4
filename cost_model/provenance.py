"""On what modelled joules rest: the share of them that comes from prior coefficients, from datasheets and from measurements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .cost import GIVEN, Cost
from .device import Device

WEAKEST_FIRST = ("prior", "modelled", "datasheet", "measured")
"""Provenances of coefficients; "modelled" ones were fitted on a simulated meter, which says nothing about hardware."""

NAMES = {"prior": "prior", "modelled": "simulated", "datasheet": "datasheet", "measured": "measured"}


def joules_by_provenance(cost: Cost, device: Device) -> dict[str, float]:
    """The joules of `cost` by the weakest coefficient that each part of them rests on [J]; provenances without joules are left out.

    Static power is paid for seconds, so that it rests on the coefficients that bound these too; given seconds are no coefficient. The
    wait for the power limit rests on every energy that it waits for.
    """
    energies = {
        **{f"flop.{dtype}": flops for dtype, flops in cost.flops_by_dtype.items()},
        **{level if level == "link" else f"byte.{level}": size for level, size in cost.bytes_by_level.items()},
        "launch": float(cost.launches),
    }
    drawn = tuple(key for key, work in energies.items() if work)
    spent: list[tuple[tuple[str, ...], float]] = [((key,), device.value(key) * energies[key]) for key in drawn]
    for bound, seconds in cost.seconds_by_bound.items():
        keys = () if bound == GIVEN else (bound, *drawn) if bound == "power_limit" else tuple(bound.split(" "))
        spent.append((("static", *keys), device.value("static") * seconds))
    found = dict.fromkeys(WEAKEST_FIRST, 0.0)
    for keys, joules in spent:
        found[min((device.coefficients[key].provenance for key in keys), key=WEAKEST_FIRST.index)] += joules
    return {provenance: joules for provenance, joules in found.items() if joules}


def provenance_shares(parts: Iterable[tuple[float, Cost]], device: Device) -> dict[str, float]:
    """The share of the joules of weighted costs by the weakest coefficient that they rest on, weakest first; {} where there are no
    joules. The shares add up to 1."""
    total = dict.fromkeys(WEAKEST_FIRST, 0.0)
    for weight, cost in parts:
        for provenance, joules in joules_by_provenance(cost, device).items():
            total[provenance] += weight * joules
    whole = sum(total.values())
    return {provenance: joules / whole for provenance, joules in total.items() if joules} if whole else {}


def provenance_clause(shares: Mapping[str, float]) -> str:
    """ "83 % of them rest on prior coefficients, 17 % on measured ones", of joules; "" for no shares."""
    named = [(_in_words(share), NAMES[provenance]) for provenance, share in shares.items()]
    clauses = [f"{percent} on {name} ones" for percent, name in named[1:]]
    return ", ".join([f"{percent} of them rest on {name} coefficients" for percent, name in named[:1]] + clauses)


def _in_words(share: float) -> str:
    whole = round(100 * share)
    if whole == 0:
        return "less than 1 %"
    if whole == 100:
        return "all" if share > 1 - 1e-9 else "more than 99 %"
    return f"{whole} %"
