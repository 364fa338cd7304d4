"""The edges between sites that can run on codes: which values may be held in codes, and what a plan pays to make codes of one and back.

Maxima and channels side by side between such sites are priced on floats, with conversions around them: the pass that leaves them out where
it can makes a plan cheaper than it was thought. An add between convolutions is priced by itself, also beside one in floating point, with
which onnxruntime would fuse it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import LinearConstraint
from scipy.sparse import csr_array

from ..cost_model.plan import Choice, Option
from ..cost_model.sites import CodedSite

if TYPE_CHECKING:
    # A plan is solved again without a model, and without the second that torch takes to be imported.
    from ..cost_model.net import Net
    from .backend import Group
    from .score import Score

IN_CODES = "codes"
"""The name under which the error of holding a value in codes is kept, beside those of actions."""


@dataclass(frozen=True)
class Edge:
    """A value that may be held in codes. `producer` is the group that writes it, `consumers` those that read it, "" for what is in no group
    that runs on codes. `quantize` [J] is paid once if some reader takes codes of what was written in floating point, `dequantize` [J] once
    if a reader takes floating point of what was written in codes; `error` comes with `quantize`. `seconds` are those of both. No plan goes
    a way whose price or error is infinite: it was not found."""

    value: str
    producer: str
    consumers: tuple[str, ...]
    quantize: float
    dequantize: float
    error: float = 0.0
    seconds: tuple[float, float] = (0.0, 0.0)


def edges_of(groups: Sequence[Group], choices: Sequence[Choice], net: Net) -> list[Edge]:
    """The edges of all groups that have an option on codes, without prices."""
    able = {choice.site for choice in choices if any(option.quantized and not option.reason for option in choice.options)}
    sites = {site.id: site for group in groups if group.id in able for site in group.sites if isinstance(site, CodedSite)}
    writers = {site.result: name for name, site in sites.items()}
    readers: dict[str, list[str]] = {}
    covered: dict[str, str] = {}
    for name, site in sites.items():
        for value in site.reads:
            readers.setdefault(value, []).append(name)
        for op in site.ops:
            covered[op] = name
    found = []
    for value in dict.fromkeys((*writers, *readers)):
        mine = readers.get(value, [])
        outside = net.returns(value) or any(covered.get(op.id) not in mine for op in net.consumers(value))
        found.append(Edge(value, writers.get(value, ""), (*mine, *([""] if outside else [])), 0.0, 0.0))
    return found


@dataclass(frozen=True)
class Converted:
    """What a plan pays on one edge: `quantized` and `dequantized` say which ways, `joules`, `seconds` and `error` what that costs."""

    value: str
    quantized: bool
    dequantized: bool
    joules: float
    seconds: float
    error: float


@dataclass(frozen=True)
class Conversions:
    """Columns of a solve behind those of the options, two an edge (to codes, and back): their `joules`, their `errors`, whether they may be
    taken, and that they are at least what the options ask of them."""

    joules: list[float]
    errors: list[float]
    allowed: list[bool]
    constraints: list[LinearConstraint]


def conversions(choices: Sequence[Choice], table: Sequence[Sequence[Option]], edges: Sequence[Edge]) -> Conversions:
    """The columns of `edges` where `table` has the options of each choice, in columns one after the other.

    to codes >= reader on codes - writer on codes, and back >= writer on codes - reader on codes, for every reader."""
    columns: dict[str, list[int]] = {"": []}
    count = 0
    for choice, options in zip(choices, table, strict=True):
        mine = [count + index for index, option in enumerate(options) if option.quantized]
        if mine:
            columns[choice.site] = mine
        count += len(options)
    rows: list[int] = []
    places: list[int] = []
    entries: list[float] = []
    total = count + 2 * len(edges)
    row = 0
    for index, edge in enumerate(edges):
        writer = columns.get(edge.producer, [])
        for name in edge.consumers:
            reader = columns.get(name, [])
            for column, more, less in ((count + 2 * index, reader, writer), (count + 2 * index + 1, writer, reader)):
                if more:
                    parts = [(column, 1.0), *((c, -1.0) for c in more), *((c, 1.0) for c in less)]
                    rows += [row] * len(parts)
                    places += [place for place, _ in parts]
                    entries += [entry for _, entry in parts]
                    row += 1
    made = [LinearConstraint(csr_array((entries, (rows, places)), shape=(row, total)), 0, np.inf)] if row else []
    prices = [price for edge in edges for price in ((edge.quantize, edge.error), (edge.dequantize, 0.0))]
    allowed = [isfinite(joule) and isfinite(error) for joule, error in prices]
    known = [price if able else (0.0, 0.0) for price, able in zip(prices, allowed, strict=True)]
    return Conversions([joule for joule, _ in known], [error for _, error in known], allowed, made)


def paid(choices: Sequence[Choice], edges: Sequence[Edge]) -> tuple[Converted, ...]:
    """What the actions of `choices` pay on each edge; edges that cost nothing are left out."""
    on_codes = {choice.site for choice in choices if choice.after.quantized}
    found = []
    for edge in edges:
        written = edge.producer in on_codes
        forth = not written and any(name in on_codes for name in edge.consumers)
        back = written and any(name not in on_codes for name in edge.consumers)
        if forth or back:
            joules = (edge.quantize if forth else 0.0) + (edge.dequantize if back else 0.0)
            seconds = (edge.seconds[0] if forth else 0.0) + (edge.seconds[1] if back else 0.0)
            found.append(Converted(edge.value, forth, back, joules, seconds, edge.error if forth else 0.0))
    return tuple(found)


def predicted_error(choices: Sequence[Choice], edges: Sequence[Edge] = ()) -> float:
    """The relative squared error that a plan is predicted to have: those of its options and of its conversions, added up."""
    return sum(choice.after.error for choice in choices) + sum(each.error for each in paid(choices, edges))


def with_errors(edges: Sequence[Edge], scores: Mapping[tuple[str, str], Score]) -> list[Edge]:
    """The edges with the errors of holding their values in codes that are known so far, 0 for one that is not."""
    return [
        replace(each, error=scores[each.value, IN_CODES].error) if (each.value, IN_CODES) in scores else each for each in edges
    ]
