"""Whether errors add up, as a plan supposes: random pairs of sites changed together, against the sum of what each does alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from ..cost_model.net import Net
from .backend import Arrays, Backend, Group
from .calibration_data import relative_error
from .score import Score, linear_bias, linear_weight, representative, site_change

PAIRS = 8
"""Pairs that are run, each once over the samples that errors are measured on."""
FEWEST = 4
"""Pairs below which nothing is said."""


@dataclass(frozen=True)
class Additivity:
    """Of random pairs of options at different sites: the errors `apart` (their sum, as a plan counts) and `together` (measured)."""

    apart: tuple[float, ...]
    together: tuple[float, ...]

    @property
    def rank_correlation(self) -> float:
        """Spearman's, of sums against what was measured."""
        return float(spearmanr(self.apart, self.together).statistic)

    @property
    def ratios(self) -> tuple[float, float]:
        """The smallest and the largest of measured / sum."""
        found = [both / alone for both, alone in zip(self.together, self.apart, strict=True)]
        return min(found), max(found)

    def __str__(self) -> str:
        low, high = self.ratios
        return (
            f"do errors add up? Those of {len(self.apart)} random pairs, measured together, were {low:.2g} to {high:.2g} times their sums "
            f"(rank correlation {self.rank_correlation:.2f})"
        )

    def to_json(self) -> dict[str, Any]:
        """For report.json."""
        return {
            "pairs": len(self.apart),
            "rank_correlation": self.rank_correlation,
            "ratio_low": self.ratios[0],
            "ratio_high": self.ratios[1],
        }


def additivity(
    graph: Any,
    net: Net,
    groups: Sequence[Group],
    scores: Mapping[tuple[str, str], Score],
    backend: Backend,
    samples: Sequence[Arrays],
    progress: Callable[[str], None] = lambda _: None,
) -> Additivity | None:
    """Runs `PAIRS` random pairs of what is scored and prepared, the same on every run; None where there are too few."""
    linear = {group.id: group for group in groups if group.kind == "linear"}
    able = sorted(k for k, s in scores.items() if k[0] in linear and s.prepared and isfinite(s.error) and s.error > 0)
    random = np.random.default_rng(0)
    pairs: dict[frozenset[tuple[str, str]], None] = {}
    for _ in range(4 * PAIRS):
        if len(able) < 2 or len(pairs) == PAIRS:
            break
        one, other = (able[int(i)] for i in random.choice(len(able), 2, replace=False))
        if one[0] != other[0]:
            pairs[frozenset((one, other))] = None
    if len(pairs) < FEWEST:
        return None
    used = {key[0]: linear[key[0]] for pair in pairs for key in pair}
    read = list(dict.fromkeys(site.x for group in used.values() for site in group.linears))
    written = [value for group in used.values() for value in group.outputs]
    probed = representative(samples)
    together = []
    progress("checking that errors add up")
    with backend.probe(graph, list(dict.fromkeys([*read, *written])), written) as probe:
        reference = [probe.run(sample, {}) for sample in probed]
        captured = [probe.capture(sample, read) for sample in probed]
        for pair in pairs:
            outputs = []
            for sample, found in zip(probed, captured, strict=True):
                addends = {
                    site.output: site_change(
                        scores[key].prepared[site.id], linear_weight(net, site), linear_bias(net, site), found[site.x]
                    )
                    for key in pair
                    for site in linear[key[0]].linears
                }
                outputs.append(probe.run(sample, addends))
            together.append(relative_error(outputs, reference, probed))
    apart = tuple(sum(scores[key].error for key in pair) for pair in pairs)
    return Additivity(apart, tuple(together))
