"""What tables of embeddings in integer codes do to the model's outputs: the change of the rows that are looked up, added to the running
model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..cost_model.errors import InputError
from ..cost_model.net import Net
from ..cost_model.sites import EmbeddingSite
from ..kernels.quantized_embedding.formats import looked_up, prepare_table
from .backend import Arrays, Group, Probe
from .calibration_data import relative_error
from .score import Score, representative


def score_embeddings(
    wanted: Mapping[Group, str],
    net: Net,
    probe: Probe,
    samples: Sequence[Arrays],
    progress: Callable[[str], None] = lambda _: None,
) -> dict[tuple[str, str], Score]:
    """(group id, format) -> Score for the format wanted of each table; one that no format can hold is refused."""
    probed = representative(samples)
    reference = [probe.run(sample, {}) for sample in probed]
    scores: dict[tuple[str, str], Score] = {}
    for group, action in wanted.items():
        site = group.sites[0]
        assert isinstance(site, EmbeddingSite)
        progress(f"error of {action} at {group.id}")
        table = np.array(net.array(site.table), np.float32)
        try:
            prepared = prepare_table(action, table)
        except InputError as fault:
            scores[group.id, action] = Score(float("inf"), {}, refused=str(fault))
            continue
        outputs = []
        for sample in probed:
            indices = _indices(site, net, probe, sample)
            outputs.append(probe.run(sample, {site.output: looked_up(prepared, indices) - table[indices]}))
        scores[group.id, action] = Score(relative_error(outputs, reference, probed), {site.id: prepared})
    return scores


def _indices(site: EmbeddingSite, net: Net, probe: Probe, sample: Arrays) -> np.ndarray:
    """Which rows a sample looks up; constant ones are no value of the running model."""
    kept = net.array(site.indices)
    found = probe.capture(sample, [site.indices])[site.indices] if kept is None else kept
    return np.asarray(found).astype(np.int64)
