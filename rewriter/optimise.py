"""One program on one runtime: normalise, view, find, price, score, plan, apply, check. Reads in that order; nothing later reaches back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

from ..cost_model.device import Device
from ..cost_model.errors import InputError
from ..cost_model.floors import Floors, floors_of
from ..cost_model.net import Net
from ..cost_model.onnx_style import OnnxStyle
from ..cost_model.plan import Budget, Choice, Plan, Step, Workload
from ..cost_model.program import Program
from ..cost_model.sites import Miss
from ..cost_model.timing import TimeTable
from ..kernels.spectral_attention.crossover import meant_for
from ..passes.find import Found, find
from .additivity import Additivity, additivity
from .apply import Applied, apply_choices, clean_up
from .as_run import as_run, became
from .backend import Backend, Group, groups_of
from .calibration_data import CalibrationData
from .candidates import scored_as
from .causal import with_known_masks
from .check import Gate
from .decide import decide, lock, prepare_taken, with_scores
from .edge_prices import priced
from .edges import IN_CODES, Edge, edges_of, paid, predicted_error, with_errors
from .hold import Refused, hold_to_budget, without_undone
from .options import Nets, Pricing
from .prediction import Prediction
from .refusals import left_out, refusals
from .score import Score
from .score_file import kept_scores
from .score_table import complete_table
from .site_groups import largest_phase
from .solve import Solution, with_reasons

Progress = Callable[[str], None]
DEFAULT_ERROR = 0.02
NO_CACHE = "in the decode phase {} it would read a cache, for which it has no price"


@dataclass(frozen=True, eq=False)
class Optimised:
    """A rewritten program and everything that led to it. `before` and `floors` are those of the original by phase name, `elsewhere` the
    (joules, seconds) per call of ops that no choice covers, `conversions` those of what the rewrite puts between floating point and codes
    on `edges`, whose errors are infinite where they were not measured. `limit` is that on the predicted error under which it was decided
    last, `error` the relative squared error on held-out data; `changed` is False where nothing paid and the program is the original."""

    backend: Backend
    original: Program
    program: Program
    choices: tuple[Choice, ...]
    misses: tuple[Miss, ...]
    found: Found
    steps: tuple[Step, ...]
    printed: tuple[str, ...]
    rolled_back: tuple[str, ...]
    before: Mapping[str, Prediction]
    floors: Mapping[str, Floors]
    elsewhere: tuple[float, float]
    error: float
    metric: tuple[float, float] | None
    changed: bool
    gap: float
    scores: Mapping[tuple[str, str], Score]
    conversions: tuple[float, float] = (0.0, 0.0)
    edges: tuple[Edge, ...] = ()
    limit: float = 0.0
    additivity: Additivity | None = None


@dataclass(frozen=True)
class Request:
    """What the user asked for, the same for every runtime. `table` is set where the target is the machine at hand; `known_scores` are
    errors that another runtime of the same model has measured already: they belong to the model, not to the runtime. `only`: kinds of
    sites that alone may change, none for all; `include` and `exclude`: shell patterns of names that alone may, and may not. Errors are kept
    in a file of the folder `scores`, None for none. `onnx_style`: the operators that the .onnx file is written in. `data_free`: errors
    are those of weights, where there is no `calibration`."""

    device: Device
    workload: Workload
    budget: Budget
    calibration: CalibrationData | None
    exact: bool
    table: TimeTable | None
    metric: Callable[[Any], float] | None
    plan: Plan | None
    known_scores: Mapping[tuple[str, str], Score] = field(default_factory=dict)
    only: frozenset[str] = frozenset()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    scores: Path | None = None
    onnx_style: OnnxStyle = OnnxStyle.runtime
    data_free: bool = False


def optimise(program: Program, backend: Backend, request: Request, progress: Progress = lambda _: None) -> Optimised:
    """The cheapest form of `program` on `backend` within the budget.

    Raises BudgetError where a joule budget or a locked plan cannot be met."""
    progress(f"{backend.runtime}: reading the graph")
    gate = Gate(program, backend, request.budget, request.calibration, request.metric)
    graph, clean = clean_up(program, backend, gate)
    nets = {phase.name: backend.view(graph, phase.shapes) for phase in request.workload.phases}
    decoding = tuple(phase.name for phase in request.workload.phases if phase.context)
    # Sites are the same in every phase.
    net = nets[largest_phase(request.workload).name]
    found = find(net)
    found = replace(found, sites=with_known_masks(program, backend, graph, net, found.sites))
    prices = as_run(program, backend, request.device, graph)
    before = {phase.name: prices.prediction(phase) for phase in request.workload.phases}

    sites = {site.id: site for site in found.sites}
    groups = groups_of(found.sites)
    pricing = Pricing(prices, request.workload, request.table, before, decoding)
    choices, misses = _priced(graph, nets, net, groups, pricing, request, progress)
    choices = lock(choices, request.plan, backend.runtime)
    edges = priced(edges_of(groups, choices, net), nets, pricing, progress)

    inside = {op for group in groups for op in backend.footprint(group, net, request.device)}
    elsewhere = _elsewhere(before, nets, inside, request.workload)
    kept = kept_scores(request.scores, backend.runtime, net, request.calibration)
    scores = {**kept.scores(), **request.known_scores}

    def solved(budget: Budget, error_limit: float, undone: Refused) -> Solution:
        solution, found = decide(
            graph,
            net,
            groups,
            [without_undone(choice, undone) for choice in choices],
            backend,
            budget,
            request.calibration,
            elsewhere[0],
            scores,
            progress,
            error_limit,
            kept.keep,
            edges,
        )
        scores.update(found)
        return solution

    def decided(error_limit: float, undone: Refused) -> Solution:
        solution = solved(request.budget, error_limit, undone)
        scores.update(prepare_taken(graph, net, groups, solution, backend, request.calibration, scores, progress))
        return solution

    def rewrite(solved: Solution) -> Applied:
        prepared = {
            site: made
            for choice in solved.choices
            if (score := scores.get((choice.site, scored_as(choice.action))))
            for site, made in score.prepared.items()
        }
        prepared = meant_for(prepared, sites, request.device)
        return apply_choices(graph, solved.choices, sites, backend, prepared, gate, progress, predicted)

    def predicted(taken: Sequence[Choice]) -> float:
        return predicted_error(taken, with_errors(edges, scores))

    # A metric says nothing about single sites: until it is checked, their errors are held to the default budget.
    first = DEFAULT_ERROR if request.metric else request.budget.error
    solution = decided(first, {})
    held = hold_to_budget(solution, rewrite, decided, gate, progress, predicted)
    complete_table(lambda budget, limit: solved(budget, limit, held.undone), choices, request.budget, net)
    kept.write()
    added = (
        additivity(graph, net, groups, scores, backend, request.calibration.scoring, progress) if request.calibration else None
    )
    if added is not None:
        progress(f"{backend.runtime}: {added}")
    final = [
        replace(without_undone(c, held.undone), action=h.action, reason=h.reason)
        for c, h in zip(choices, held.choices, strict=True)
    ]
    chosen = with_reasons(with_scores(final, scores), request.budget)
    changed = any(choice.action != "leave" for choice in chosen)
    spent = paid(chosen, edges)
    return Optimised(
        backend=backend,
        original=program,
        program=replace(program, graph=held.graph) if changed else program,
        choices=chosen,
        misses=(*found.misses, *misses),
        found=found,
        steps=(clean, *held.steps),
        printed=(backend.print_step(graph), *held.printed),
        rolled_back=held.rolled_back,
        before=before,
        floors={name: floors_of(before[name].net if name in decoding else net, request.device) for name, net in nets.items()},
        elsewhere=elsewhere,
        error=held.error,
        metric=held.metric,
        changed=changed,
        gap=held.gap,
        limit=first if held.limit is None else held.limit,
        scores=scores,
        conversions=(sum(each.joules for each in spent), sum(each.seconds for each in spent)),
        additivity=added,
        edges=tuple(e if (e.value, IN_CODES) in scores else replace(e, error=inf) for e in with_errors(edges, scores)),
    )


def _priced(
    graph: Any, nets: Nets, net: Net, groups: Sequence[Group], pricing: Pricing, request: Request, progress: Progress
) -> tuple[list[Choice], list[Miss]]:
    """A choice for each group with every option priced, and the refusals that concern a whole site."""
    backend, choices, misses = pricing.prices.backend, [], []
    for group in groups:
        actions = refusals(
            backend.actions(group, net, request.device),
            exact=request.exact,
            budget=request.budget,
            calibration=request.calibration,
            data_free=request.data_free,
            left=left_out(group, request.only, request.include, request.exclude),
        )
        if group.kind == "attention" and pricing.decoding:
            # Where every phase decodes, what a backend says about lengths is about the new tokens alone.
            only = len(pricing.decoding) == len(request.workload.phases)
            cache = NO_CACHE.format(", ".join(pricing.decoding))
            actions = {action: cache if only else reason or cache for action, reason in actions.items()}
        try:
            options = pricing.options(graph, nets, group, actions, progress)
        except InputError as fault:
            misses.append(Miss(group.ops[0], group.kind, str(fault)))
            options = (pricing.left_alone(nets, group),)
        misses += [
            Miss(group.sites[0].ops[-1], group.kind, option.reason)
            for option in options
            if option.reason and option.action == "spectral_sparse"
        ]
        choices.append(Choice(group.id, group.kind, "leave", options, tuple(s.id for s in group.sites), backend.runtime, ""))
    return choices, misses


def _elsewhere(
    before: Mapping[str, Prediction], nets: Nets, inside: Collection[str], workload: Workload
) -> tuple[float, float]:
    """(joules, seconds) per call of all that no choice covers: other ops, and what a call takes around them."""
    joules = seconds = 0.0
    for phase in workload.phases:
        found = before[phase.name]
        covered = [found.ops[op] for op in became(found.net, nets[phase.name], inside)]
        joules += phase.weight * (found.total.joules - sum(cost.joules for cost in covered))
        seconds += phase.weight * (found.total.seconds - sum(cost.seconds for cost in covered))
    return max(0.0, joules), max(0.0, seconds)
