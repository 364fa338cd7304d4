"""What each option of each site does to the model's outputs, measured on the scoring half of the calibration data.

The change an option makes at its site is simulated with the kernel's plain reference and added to the running model, so
that one session serves every site and every format, on either runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..cost_model.net import Net
from ..cost_model.sites import LinearSite
from ..kernels.quantized_linear.formats import Prepared, prepare_group
from ..kernels.quantized_linear.reference import simulate
from .backend import Arrays, Group, Probe
from .calibration import relative_error

# Rows of activations that weights are rounded against, and that one probe run spends: more change the choice of formats no further.
MOST_ROWS = 2048


@dataclass(frozen=True)
class Score:
    """`error`: relative squared error of the model's outputs with this option alone. `prepared`: site id -> its quantised tensors."""

    error: float
    prepared: Mapping[str, Prepared]


def linear_weight(net: Net, site: LinearSite) -> np.ndarray:
    """The weight of a linear site as float32 [K, N]."""
    array = net.array(site.weight)
    assert array is not None
    array = np.asarray(array, np.float32)
    if site.transposed:
        array = array.T
    return np.ascontiguousarray(array.reshape(site.in_features, site.out_features))


def linear_bias(net: Net, site: LinearSite) -> np.ndarray | None:
    """The bias of a linear site as float32 [N], None without one."""
    array = net.array(site.bias) if site.bias else None
    return None if array is None else np.asarray(array, np.float32).reshape(-1)


def representative(samples: Sequence[Arrays]) -> tuple[Arrays, ...]:
    """Samples spread over the whole set whose elements (of their first input) add up to about `MOST_ROWS`; at least one."""
    sizes = [max(1, next(iter(sample.values())).size) for sample in samples]
    count = max(1, min(len(samples), round(MOST_ROWS * len(samples) / sum(sizes))))
    return tuple(samples[i] for i in np.linspace(0, len(samples) - 1, count).astype(int))


def score_linear(
    group: Group,
    net: Net,
    formats: Iterable[str],
    probe: Probe,
    samples: Sequence[Arrays],
    reference: Sequence[Arrays],
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Score]:
    """Format -> Score for the sites of one group, all changed together. `reference` are the undisturbed outputs on `samples`."""
    sites = [site for site in group.sites if isinstance(site, LinearSite)]
    weights, biases = [linear_weight(net, s) for s in sites], [linear_bias(net, s) for s in sites]
    read = list(dict.fromkeys(site.x for site in sites))
    captured = [probe.capture(sample, [*read, *(site.output for site in sites)]) for sample in samples]
    rows = np.concatenate([found[sites[0].x].reshape(-1, sites[0].in_features) for found in captured])
    if len(rows) > MOST_ROWS:
        rows = rows[np.linspace(0, len(rows) - 1, MOST_ROWS).astype(int)]
    scores = {}
    for action in formats:
        progress(f"{group.id}: {action}")
        prepared = prepare_group(action, weights, biases, np.asarray(rows, np.float32))
        outputs = []
        for sample, found in zip(samples, captured, strict=True):
            addends = {
                site.output: _change(made, weight, bias, found[site.x], found[site.output])
                for site, made, weight, bias in zip(sites, prepared, weights, biases, strict=True)
            }
            outputs.append(probe.run(sample, addends))
        scores[action] = Score(relative_error(outputs, reference), {s.id: p for s, p in zip(sites, prepared, strict=True)})
    return scores


def _change(prepared: Prepared, weight: np.ndarray, bias: np.ndarray | None, x: np.ndarray, output: np.ndarray) -> np.ndarray:
    """What the option adds to the site's output, shaped like that output."""
    rows = torch.from_numpy(np.ascontiguousarray(x.reshape(-1, weight.shape[0]), dtype=np.float32))
    dense = rows @ torch.from_numpy(weight)
    if bias is not None:
        dense = dense + torch.from_numpy(bias)
    return (simulate(prepared, rows) - dense).numpy().reshape(output.shape)
