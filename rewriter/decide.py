"""Which options are taken: the solve and the scoring in turn, so that an error is only measured where it can change the plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

from ..cost_model.errors import BudgetError, InputError
from ..cost_model.net import Net
from ..cost_model.plan import Budget, Choice, Option, Plan
from ..cost_model.sites import AttentionSite, CodedSite, EmbeddingSite, Kind, LinearSite
from ..kernels.low_rank.factors import more_accurate
from .backend import Backend, Group, Probe
from .calibration_data import CalibrationData
from .candidates import scored_as
from .edges import IN_CODES, Edge, with_errors
from .frontier import NOT_MEASURED
from .score import Score, prepare_linears, score_linears
from .score_attention import captured_values, score_attentions
from .score_coded import score_coded
from .score_embedding import score_embeddings
from .score_weights import prepare_by_weights, score_by_weights
from .solve import Solution, eligible, solve

Scores = dict[tuple[str, str], Score]
Keep = Callable[[str, tuple[str, str], Score], None]


def decide(
    graph: Any,
    net: Net,
    groups: Sequence[Group],
    choices: Sequence[Choice],
    backend: Backend,
    budget: Budget,
    calibration: CalibrationData | None,
    joules_elsewhere: float,
    known: Mapping[tuple[str, str], Score],
    progress: Callable[[str], None] = lambda _: None,
    error_limit: float | None = None,
    keep: Keep = lambda _, __, ___: None,
    edges: Sequence[Edge] = (),
) -> tuple[Solution, Scores]:
    """The cheapest choices within the budget, and every score that was measured on the way to them.

    An option not yet scored counts as free of error, or as wrong as a larger rank that was scored. Solve; score what was taken unscored;
    solve again, until nothing unscored is taken. The plan is then as good as if all had been scored: options left unscored would not be
    taken even if they had no error, or that of the larger rank. Without `calibration` errors are those of the weights. `keep` is given each
    score of a format as soon as it is measured, behind the kind of its site.
    """
    by_id, scores = {(group.kind, group.id): group for group in groups}, dict(known)
    with ExitStack() as stack:
        probe: Probe | None = None
        while True:
            scored = [_with_errors(choice, scores) for choice in choices]
            between = with_errors(edges, scores)
            solution = solve(scored, budget, error_limit=error_limit, joules_elsewhere=joules_elsewhere, edges=between)
            wanted: dict[Group, str] = {
                by_id[choice.kind, choice.site]: _first_to_score(choice, scores)
                for choice in solution.choices
                if scored_as(choice.action) and (choice.site, scored_as(choice.action)) not in scores
            }
            values = [each.value for each in solution.converted if each.quantized and (each.value, IN_CODES) not in scores]
            if not wanted and not values:
                break
            if calibration is None:
                assert not values, "sites on codes need calibration data"
                scores.update(score_by_weights(wanted, net, progress))
                continue
            if probe is None:
                able = {(c.kind, c.site) for c in choices if any(scored_as(o.action) and not o.reason for o in c.options)}
                probe = stack.enter_context(_probe(graph, net, [g for g in groups if (g.kind, g.id) in able], backend))
            linears = {group: {name} for group, name in wanted.items() if group.kind == "linear"}
            attentions = [group for group in wanted if group.kind == "attention"]
            coded = [group for group in wanted if isinstance(group.sites[0], CodedSite)]
            tables = {group: name for group, name in wanted.items() if group.kind == "embedding"}
            scores.update(
                score_linears(linears, net, probe, calibration.scoring, progress, partial(keep, "linear")) if linears else {}
            )
            scores.update(score_attentions(attentions, probe, calibration.scoring, progress) if attentions else {})
            scores.update(score_embeddings(tables, net, probe, calibration.scoring, progress) if tables else {})
            scores.update(score_coded(coded, values, net, probe, calibration.scoring, progress) if coded or values else {})
    return replace(solution, choices=with_scores(solution.choices, scores)), scores


def prepare_taken(
    graph: Any,
    net: Net,
    groups: Sequence[Group],
    solution: Solution,
    backend: Backend,
    calibration: CalibrationData | None,
    scores: Mapping[tuple[str, str], Score],
    progress: Callable[[str], None] = lambda _: None,
) -> Scores:
    """Scores of what a plan takes and what an earlier run measured, with what the rewrite needs."""
    by_id = {(group.kind, group.id): group for group in groups}
    taken = {by_id[c.kind, c.site]: scored_as(c.action) for c in solution.choices}
    wanted = {g: {name} for g, name in taken.items() if (found := scores.get((g.id, name))) and found.remembered}
    if not wanted:
        return {}
    if calibration is None:
        made = prepare_by_weights(wanted, net, progress)
    else:
        with _probe(graph, net, list(wanted), backend) as probe:
            made = prepare_linears(wanted, net, probe, calibration.scoring, progress)
    return {key: replace(scores[key], prepared=prepared, remembered=False) for key, prepared in made.items()}


def lock(choices: Sequence[Choice], plan: Plan | None, runtime: str) -> list[Choice]:
    """Choices pinned to the actions of a replayed plan; regions that it does not name are left, since plans older than a kind of region
    know nothing of it. InputError where it names an unknown site or option, BudgetError where the option it asks for is refused."""
    wanted = {c.site: c.action for c in plan.choices if c.runtime == runtime} if plan else {}
    unknown = sorted(set(wanted) - {choice.site for choice in choices})
    if unknown:
        raise InputError(
            f"The plan names the site {unknown[0]!r}, which this model does not have on {runtime}; make a new plan."
        )
    for choice in choices:
        _check_asked(choice, wanted.get(choice.site, "leave"))
    if wanted:
        wanted = {choice.site: "leave" for choice in choices if choice.kind == Kind.region} | wanted
    return [replace(c, action=wanted[c.site], locked=True) if c.site in wanted else c for c in choices]


def _check_asked(choice: Choice, action: str) -> None:
    """BudgetError where the action that a plan asks for is refused."""
    if reason := choice.option(action).reason.rstrip("."):
        raise BudgetError(f"The plan asks for {action} at {choice.site}, which is refused: {reason}.")


def _probe(graph: Any, net: Net, groups: Sequence[Group], backend: Backend) -> Any:
    linear = [site.x for group in groups for site in group.sites if isinstance(site, LinearSite)]
    operands = [v for group in groups for s in group.sites if isinstance(s, AttentionSite) for v in captured_values(s)]
    coded = [value for group in groups for site in group.sites if isinstance(site, CodedSite) for value in site.reads]
    # What a site on codes reads is disturbed too, as codes of it would; an input of the model has no op that writes it.
    written = [value for group in groups for value in group.outputs]
    written = list(dict.fromkeys([*written, *(value for value in coded if net.producer(value) is not None)]))
    tables = [site.indices for group in groups for site in group.sites if isinstance(site, EmbeddingSite)]
    read = [*linear, *operands, *coded, *(value for value in tables if not net.values[value].constant)]
    return backend.probe(graph, list(dict.fromkeys([*read, *written])), written)


def _with_errors(choice: Choice, scores: Mapping[tuple[str, str], Score]) -> Choice:
    """The choice with the errors known so far, 0 for one that is not, and the refusals that a score brought. BudgetError where one is of
    what a plan asks for."""

    def known(option: Option) -> Option:
        score = scores.get((choice.site, scored_as(option.action)))
        if option.reason:
            return option
        if score is not None:
            return replace(option, error=score.error, reason=score.refusal)
        bound, larger = _at_least(choice.site, option.action, scores)
        return replace(option, error=bound) if larger else option

    found = replace(choice, options=tuple(known(option) for option in choice.options))
    if found.locked:
        _check_asked(found, found.action)
    return found


def _first_to_score(choice: Choice, scores: Mapping[tuple[str, str], Score]) -> str:
    """What to score before the action of a choice can be taken: the largest rank first, since its error bounds those of the smaller."""
    name = scored_as(choice.action)
    while (larger := more_accurate(name)) and (choice.site, larger) not in scores:
        name = larger
    return name


def _at_least(site: str, action: str, scores: Mapping[tuple[str, str], Score]) -> tuple[float, str]:
    """(error, action): what a smaller rank costs at least, the error of the next larger one that was scored; (0, "") where none was."""
    larger = more_accurate(action)
    while larger and ((site, larger) not in scores or scores[site, larger].refusal):
        larger = more_accurate(larger)
    return (scores[site, larger].error, larger) if larger else (0.0, "")


def with_scores(choices: Sequence[Choice], scores: Mapping[tuple[str, str], Score]) -> tuple[Choice, ...]:
    """The choices with every error that is known, and a sentence at those that could be taken and are not known."""
    return tuple(_said(_with_errors(choice, scores), scores) for choice in choices)


def _said(choice: Choice, scores: Mapping[tuple[str, str], Score]) -> Choice:
    """The choice with unscored options marked: they have no error, and a sentence where they could have been taken."""

    def said(option: Option) -> Option:
        if not scored_as(option.action) or option.reason or (choice.site, scored_as(option.action)) in scores:
            return option
        unknown = replace(option, error=float("inf"))
        if not eligible(option, choice.before):
            return unknown
        why = "the joule budget was met without it"
        if option.joules >= choice.after.joules:
            why = "it costs more joules than what was taken"
        elif larger := _at_least(choice.site, option.action, scores)[1]:
            why = f"that of {larger}, which keeps more of the weight, is {option.error:.2g} already"
        elif option.quantized:
            why = "with its conversions it would cost more joules than what was taken"
        if choice.locked:
            why = "the plan locks another action"
        return replace(unknown, reason=f"{NOT_MEASURED}, since {why}")

    return replace(choice, options=tuple(said(option) for option in choice.options))
