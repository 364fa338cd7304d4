"""`szilard serve-limits`: the batches at which a decoder can be served, and the one that costs the fewest joules a token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from . import command_line_options as options
from .command_line_output import columns, deliver, only_results_on_stdout, progress
from .quantity import number, quantity


def serve_limits(
    model: options.Model,
    context: Annotated[int, typer.Option(show_default=False, help="Positions already in the cache when a token is made.")],
    target: options.Target = "cpu",
    latency: Annotated[float | None, typer.Option(metavar="SECONDS", help="Longest time for a token of each sequence.")] = None,
    arrivals: Annotated[float | None, typer.Option(metavar="PER_SECOND", help="Requests a second, at random times.")] = None,
    tokens: Annotated[int, typer.Option(help="New tokens of a request, in the mean.")] = 256,
    memory: Annotated[float | None, typer.Option(metavar="BYTES", help="Memory of the device, if not its profile's.")] = None,
    overhead: Annotated[
        float | None, typer.Option(metavar="BYTES", help="Memory for neither weights nor caches; a tenth if not given.")
    ] = None,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Operating points of the decoder MODEL: latency, joules and throughput of every batch that fits, and the cheapest of them."""
    with only_results_on_stdout():
        from .serve_limits import Asked
        from .serve_limits import serve_limits as run

        asked = Asked(context, latency, arrivals, tokens, memory, overhead)
        result = run(model, target=target, asked=asked, progress=progress)
    deliver(result, serve_limits_text(result), as_json)


def serve_limits_text(result: Mapping[str, Any]) -> str:
    """The table of batches, the operating points, the paper's heuristic and, with arrivals, continuous batching."""
    from ..cost_model.provenance import provenance_clause

    decoder, memory, limits, points = result["decoder"], result["memory"], result["limits"], result["points"]
    least = "at least " if result["at_least"] else ""
    lines = [
        f"{result['model']} on {result['target']}, decoding at a context of {result['context']} ({decoder['dtype']}): modelled, "
        f"seconds from {result['seconds_label']}; of the joules, {provenance_clause(result['rests_on'])}",
        f"{decoder['layers']} layers, {decoder['heads']} query heads over {decoder['kv_heads']} key/value heads, "
        f"{number(decoder['parameters'])} parameters",
        f"memory (modelled): {quantity(memory['capacity'], 'B')} - {quantity(memory['weights'], 'B')} weights - "
        f"{quantity(memory['overhead'], 'B')} overhead holds {memory['largest_batch']} caches of "
        f"{quantity(memory['cache_per_sequence'], 'B')}",
        "",
    ]
    rows = [("batch", "latency", "modelled J/token", "of it static", "tokens/s", "latency x J / throughput", "its floor")]
    rows += [_cells(row, least) for row in result["batches"]]
    lines += [columns(rows, right=range(7)), ""]
    slow = f" within {quantity(limits['latency'], 's')} a token" if limits["latency"] else ""
    lines.append(f"fewest joules{slow}: {_point(points['fewest_joules'])}")
    lines.append(f"lowest latency: {_point(points['lowest_latency'])}")
    lines.append(f"most tokens{slow}: {_point(points['most_tokens'])}")
    lines += ["", *_paper_lines(result["paper"])]
    if result["arrivals"]:
        lines += ["", *_arrival_lines(result["arrivals"])]
    if result["unpriced"]:
        lines += ["", f"without a price, in at their bytes alone: {', '.join(result['unpriced'])}"]
    return "\n".join([*lines, "", *(f"note: {note}" for note in result["notes"])])


def _cells(row: Mapping[str, Any], least: str) -> tuple[str, str, str, str, str, str, str]:
    return (
        str(row["batch"]),
        quantity(row["seconds_per_token"], "s"),
        least + quantity(row["joules_per_token"], "J"),
        quantity(row["static_joules_per_token"], "J"),
        number(row["tokens_per_second"]),
        f"{row['trilemma']:.3g} J s^2",
        f"{row['trilemma_floor']:.3g} J s^2",
    )


def _point(row: Mapping[str, Any]) -> str:
    return (
        f"batch {row['batch']}, {quantity(row['seconds_per_token'], 's')} and {quantity(row['joules_per_token'], 'J')} a token, "
        f"{number(row['tokens_per_second'])} tokens/s (modelled)"
    )


def _paper_lines(paper: Mapping[str, Any]) -> list[str]:
    lines = [
        f"paper's B* (Theorem 4.2, a heuristic): {number(paper['heuristic_batch'])}; {_point(paper['heuristic_point'])}: "
        f"{number(paper['heuristic_over_fewest'])} times the fewest joules"
    ]
    for title, name in (("eq. 11, decode", "inference"), ("eq. 13, training", "training")):
        forms = [
            f"{form} " + ", ".join(f"{term} {quantity(joules, 'J')}" for term, joules in paper[name][form].items())
            for form in ("corrected", "printed")
        ]
        lines.append(f"{title}, dynamic joules a token (modelled): {'; '.join(forms)}")
    return lines


def _arrival_lines(found: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{found['requests_per_second']:g} requests/s of {found['tokens_per_request']} tokens, continuous batching (modelled; at most "
        f"{number(found['largest_requests_per_second'])} requests/s):",
        f"  {number(found['batch'])} in a batch while busy, {100 * found['busy']:.3g} % of the time; "
        f"{number(found['waiting'])} waiting; {quantity(found['seconds_per_token'], 's')} a token, "
        f"{quantity(found['request_seconds'], 's')} a request (modelled)",
        f"  {quantity(found['joules'], 'J')} a request, static watts included, of which {quantity(found['idle_joules'], 'J')} idle "
        "(modelled)",
    ]
    if found["eq_20_batch"] is not None:
        least = "has no least batch, since joules a request fall with it"
        if found["eq_21_batch"] is not None:
            least = f"is least at {number(found['eq_21_batch'])}"
        lines.append(
            f"  the paper's eq. 20 gathers {found['eq_20_batch']} requests before it serves them, and its eq. 21 {least} (modelled)"
        )
    return lines
