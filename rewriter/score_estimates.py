"""Errors of a large model's formats by gradients, before anything is planned: where a run of the model for each option is too dear."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

from ..cost_model.plan import Workload
from ..cost_model.program import Program
from ..cost_model.sites import LinearSite
from ..kernels.low_rank.factors import LARGEST_SIDE, SHARES, rank_of
from ..kernels.quantized_linear.formats import FORMATS
from ..passes.find import find
from .backend import Group, groups_of
from .backend_torch import TorchBackend
from .calibration_data import CalibrationData
from .score import PROBE_ROWS, Score, representative
from .score_file import ScoreFile, stamp_of
from .score_fisher import score_by_gradients
from .score_table import MOST_WORK

MEMORY_SHARE = 0.125
"""Of the weights, what the results of one block may take: with what is rounded at a time a pass holds less than twice the weights."""


def estimated_scores(
    program: Program,
    workload: Workload,
    calibration: CalibrationData | None,
    folder: Path | None,
    progress: Callable[[str], None] = lambda _: None,
    may_change: Callable[[Group], bool] = lambda _: True,
) -> Mapping[tuple[str, str], Score]:
    """(group id, format) -> Score of every linear that `may_change` of a torch program whose options are too many and too large to run one
    by one; nothing for others, which are measured as a plan needs them. Kept in `folder` as they are found."""
    if calibration is None:
        return {}
    backend = TorchBackend(program)
    graph = backend.clone(program.graph)
    backend.clean_up(graph)
    phase = max(workload.phases, key=lambda each: sum(prod(shape) for shape in each.shapes.values()))
    net = backend.view(graph, phase.shapes)
    groups = [group for group in groups_of(find(net).sites) if group.kind == "linear" and may_change(group)]
    weights = sum(value.elements for value in net.values.values() if value.constant)
    if 2 * weights * PROBE_ROWS * len(groups) * len(FORMATS) <= MOST_WORK:
        return {}
    progress(f"{len(groups) * len(FORMATS)} options of {weights / 1e6:.0f} million weights are scored by gradients")
    samples = representative(calibration.scoring)
    chosen = {id(sample) for sample in samples}
    others = [sample for sample in calibration.scoring if id(sample) not in chosen]
    file = ScoreFile(folder, stamp_of("torch", net, calibration.scoring, "gradients")) if folder is not None else None
    wanted = {group: _wanted(group) for group in groups}

    def keep(key: tuple[str, str], score: Score) -> None:
        if file is not None:
            file.keep("linear", key, score)

    found = score_by_gradients(
        wanted,
        graph,
        net,
        program.inputs,
        program.outputs,
        samples,
        rounding=representative(others) if others else (),
        memory=MEMORY_SHARE * 4 * weights,
        known=file.scores() if file is not None else {},
        keep=keep,
        progress=progress,
    )
    if file is not None:
        file.write()
    return found


def _wanted(group: Group) -> tuple[str, ...]:
    """The formats, and the largest rank if there is one: its error says whether a smaller one needs to be looked at."""
    sites, largest = [site for site in group.sites if isinstance(site, LinearSite)], next(iter(SHARES))
    shape = sites[0].in_features, sum(site.out_features for site in sites)
    return (*FORMATS, largest) if rank_of(largest, *shape) and min(shape) <= LARGEST_SIDE else FORMATS
