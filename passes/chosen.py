"""What a choice asks of a pass: the sites it speaks of, and what was prepared for each of them in the format chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

from ..cost_model.errors import InputError
from ..cost_model.plan import Choice
from ..cost_model.sites import Site

MERGED = "_merged"
"""Behind the name of a format: several sites as one wider."""


class InFormat(Protocol):
    """A weight, factors or a table in the format (or at the rank) `action`."""

    @property
    def action(self) -> str: ...


Made = TypeVar("Made", bound=InFormat)


def members(choice: Choice, sites: Mapping[str, Site]) -> tuple[Site, ...]:
    """The sites that a choice speaks of, in its order; InputError names one that was not found in the model."""
    for name in choice.sites:
        if name not in sites:
            raise InputError(f"The plan names the site {name!r}, which was not found in this model; make the plan again.")
    return tuple(sites[name] for name in choice.sites)


def prepared_for(prepared: Mapping[str, Made], choice: Choice, site: Site) -> Made:
    """What was prepared for a site of the choice; InputError where that is nothing, or of another format."""
    found = prepared.get(site.id)
    if found is None or found.action.removesuffix(MERGED) != choice.action.removesuffix(MERGED):
        held = "nothing" if found is None else found.action
        raise InputError(f"The choice at {choice.site} is {choice.action}, but what was prepared for site {site.id} is {held}.")
    return found
