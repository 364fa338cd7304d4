"""What convolutions, adds, Gelus and means on u8 codes do to the model's outputs: what each makes of floating point inputs, and what
holding a value in codes makes of it, added to the running model one at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from ..cost_model.cpu_features import products_saturate
from ..cost_model.errors import InputError
from ..cost_model.net import Net
from ..cost_model.sites import CodedSite, ConvSite, ElementwiseSite
from ..kernels.quantized_conv.codes import Codes, dequantize, quantize, value_codes
from ..kernels.quantized_conv.elementwise import ACTIONS, PreparedElementwise, gelu, prepare_gelu
from ..kernels.quantized_conv.formats import (
    ACTION,
    PreparedConv,
    prepare,
)
from ..kernels.quantized_conv.reference import convolved
from .backend import Arrays, Group, Probe
from .calibration_data import relative_error
from .conv_weights import conv_geometry, conv_weight, rank_and_flat
from .edges import IN_CODES
from .score import Score, chunks

SAMPLES = 12
"""Samples that ranges and roundings are made from, and (`PROBED` of them) that errors are measured on."""

PROBED = 6
Scores = dict[tuple[str, str], Score]


def score_coded(
    wanted: Sequence[Group],
    values: Collection[str],
    net: Net,
    probe: Probe,
    samples: Sequence[Arrays],
    progress: Callable[[str], None] = lambda _: None,
) -> Scores:
    """(group id, action) -> Score of each group, with what its sites become, and (value, "codes") -> Score of each value.

    The error of a site is that of its weights and of its result in codes; that of reading what was in floating point belongs to the value,
    since it is made once however many read it."""
    chosen = [samples[i] for i in np.linspace(0, len(samples) - 1, min(SAMPLES, len(samples))).round().astype(int)]
    places = range(0, len(chosen), -(-len(chosen) // PROBED))
    probed = [chosen[i] for i in places]
    reference = [probe.run(sample, {}) for sample in probed]
    scores: Scores = {}

    def disturbed(value: str, changes: Sequence[np.ndarray]) -> float:
        outputs = []
        for sample, change in zip(probed, changes, strict=True):
            if value in sample:
                outputs.append(probe.run({**sample, value: sample[value] + change}, {}))
            else:
                outputs.append(probe.run(sample, {value: change}))
        return relative_error(outputs, reference, probed)

    alone = [Group(value, "value", ()) for value in values]
    for part in chunks([*wanted, *alone], lambda group: _captured_bytes(group, net, len(chosen))):
        named = {value: None for group in part for value in _values(group)}
        captured = [probe.capture(sample, list(named)) for sample in chosen]
        seen = {value: [found[value] for found in captured] for value in named}
        codes, refused = {}, {}
        for value, found in seen.items():
            try:
                codes[value] = value_codes(found)
            except InputError as fault:
                refused[value] = str(fault)
        for group in part:
            action = _action(group)
            progress(f"error of {action} at {group.id}")
            if why := next((refused[value] for value in _values(group) if value in refused), ""):
                scores[group.id, action] = Score(float("inf"), {}, refused=why)
                continue
            if not group.sites:
                changes = [_rounded(seen[group.id][i], codes[group.id]) for i in places]
                scores[group.id, IN_CODES] = Score(disturbed(group.id, changes), {})
                continue
            site = group.sites[0]
            assert isinstance(site, CodedSite)
            try:
                made = _prepared(net, site, codes, seen)
            except InputError as fault:
                scores[group.id, action] = Score(float("inf"), {}, refused=str(fault))
                continue
            changes = []
            for i in places:
                before = seen[site.result][i]
                y = _result(made, site, seen[site.reads[0]][i], before)
                changes.append(y + _rounded(y, made.y) - before)
            scores[group.id, action] = Score(disturbed(site.result, changes), {site.id: made})
    return scores


def _action(group: Group) -> str:
    site = group.sites[0] if group.sites else None
    if isinstance(site, ElementwiseSite):
        return ACTIONS[site.function]
    return ACTION if site else IN_CODES


def _values(group: Group) -> tuple[str, ...]:
    """What is captured for a group of sites, or for the one value that a group without any stands for."""
    if not group.sites:
        return (group.id,)
    return tuple(value for site in group.sites if isinstance(site, CodedSite) for value in (*site.reads, site.result))


def _captured_bytes(group: Group, net: Net, samples: int) -> int:
    return sum(4 * samples * net.values[value].elements for value in _values(group) if value in net.values)


def _prepared(
    net: Net, site: CodedSite, codes: Mapping[str, Codes], seen: Mapping[str, Sequence[np.ndarray]]
) -> PreparedConv | PreparedElementwise:
    y = codes[site.result]
    if isinstance(site, ConvSite):
        weight, bias = conv_weight(net, site)
        return prepare(weight, bias, conv_geometry(net, site), codes[site.x], y, seen[site.x], narrow=products_saturate())
    if site.function == "gelu":
        return prepare_gelu(seen[site.reads[0]], codes[site.reads[0]], y)
    read = tuple(codes[value] for value in site.reads)
    return PreparedElementwise(ACTIONS[site.function], read, y, *rank_and_flat(net, site))


def _result(made: PreparedConv | PreparedElementwise, site: CodedSite, x: np.ndarray, before: np.ndarray) -> np.ndarray:
    """What the site makes of x in floating point, before its result is put in codes; `before`, the model's own, is what adds and means
    make."""
    if isinstance(made, PreparedConv):
        return convolved(made, x, site.low, site.high)
    return gelu(x, made.slope) if made.slope else before


def _rounded(x: np.ndarray, codes: Codes) -> np.ndarray:
    """What holding a value in codes adds to it."""
    return dequantize(quantize(x, codes), codes) - x
