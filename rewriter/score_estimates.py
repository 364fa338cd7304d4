"""Errors of a large model's formats by gradients, before anything is planned: where a run of the model for each option is too dear."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..cost_model.net import Net
from ..cost_model.program import Program
from ..kernels.low_rank.factors import more_accurate
from .backend import Backend, Group
from .backend_torch import TorchBackend
from .candidates import scored_as
from .optimise import Request
from .refusals import left_out
from .score import PROBE_ROWS, Score, representative
from .score_file import ScoreFile, stamp_of
from .score_fisher import score_by_gradients
from .score_table import MOST_WORK
from .site_groups import site_groups

MEMORY_SHARE = 0.125
"""Of the weights, what the results of one block may take: with what is rounded at a time a pass holds less than twice the weights."""


def estimated_scores(
    program: Program, backends: Sequence[Backend], request: Request, progress: Callable[[str], None] = lambda _: None
) -> Mapping[tuple[str, str], Score]:
    """(group id, format) -> Score of what any of the `backends` may make of each linear that may change, for a torch program whose options
    are too many and too large to run one by one; nothing for others, which are measured as a plan needs them. Kept in the request's
    folder of scores as they are found."""
    calibration = request.calibration
    if calibration is None:
        return {}
    graph, net, groups = site_groups(program, TorchBackend(program), request.workload)
    wanted = {group: names for group in groups if (names := _wanted(group, net, backends, request))}
    weights = sum(value.elements for value in net.values.values() if value.constant)
    count = sum(len(names) for names in wanted.values())
    if 2 * weights * PROBE_ROWS * count <= MOST_WORK:
        return {}
    progress(f"{count} options of {weights / 1e6:.0f} million weights are scored by gradients")
    samples = representative(calibration.scoring)
    chosen = {id(sample) for sample in samples}
    others = [sample for sample in calibration.scoring if id(sample) not in chosen]
    stamp = stamp_of("torch", net, calibration.scoring, "gradients")
    file = ScoreFile(request.scores, stamp) if request.scores is not None else None

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


def _wanted(group: Group, net: Net, backends: Sequence[Backend], request: Request) -> tuple[str, ...]:
    """What to score at a group: of ranks the largest alone, whose error says whether a smaller one needs to be looked at; what a plan
    locks alone."""
    if not group.linears or left_out(group, request.only, request.include, request.exclude):
        return ()
    locked = {choice.action for choice in request.plan.choices if choice.site == group.id} if request.plan else set()
    actions = {
        action: None
        for backend in backends
        for action, reason in backend.actions(group, net, request.device).items()
        if not reason and (not locked or action in locked)
    }
    names = {scored_as(action) for action in actions} - {""}
    return tuple(sorted(name for name in names if not more_accurate(name)))
