"""How a report shows attention: a map of layers and heads, why some stayed dense, and spectra of a few heads as figures and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..cost_model.spectral_evidence import MOST_STEPS
from .quantity import number, percent
from .report_view import few

SPARSE = "spectral_sparse"
_STRONGEST = 45
"""Percent of colour of the cell that reads most; with more, its text is hard to read."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 252, 8, 132
"""Edges of the area that a figure plots in, of 260 x 160."""

Row = Mapping[str, Any]


def attention_view(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the templates show of report["attention"] and report["spectral"]; every part is empty where the model has no attention."""
    rows, heads = report.get("attention") or [], report.get("spectral") or []
    found = [row for row in heads if "dense" in row]
    return {
        "summary": summary(rows),
        "map": _map(rows),
        "left": _left(rows),
        "figures": _figures(found),
        "note": _note(found),
        "heads": [_head(row) for row in found],
        "numbers": _numbers(found),
        "without": [f"{_head(row)}: {row['reason']}" for row in heads if "reason" in row],
    }


def summary(rows: Sequence[Row]) -> list[str]:
    """How many attentions went sparse and how far: one sentence for runtimes that agree."""
    places: dict[str, list[str]] = {}
    for place in dict.fromkeys(map(_place, rows)):
        places.setdefault(_sparse([row for row in rows if _place(row) == place]), []).append(place)
    return [f"On {' and '.join(names)}, {sentence}" for sentence, names in places.items()]


def _place(row: Row) -> str:
    """As `Choice.place`: the runtime, and the program where a model has several."""
    return f"{row['runtime']} ({row['program']})" if row.get("program") else str(row["runtime"])


def _sparse(rows: Sequence[Row]) -> str:
    sparse = [row for row in rows if row["action"] == SPARSE]
    counted = f"{len(sparse)} of {len(rows)} attentions went sparse"
    heads = [head for row in sparse for head in row["heads"]]
    budgets = [head["budget"] for head in heads if head["budget"] is not None]
    if not budgets:
        return f"{counted}."
    density = sum(row["density"] for row in sparse) / len(sparse)
    least, most, tile = min(budgets), max(budgets), _span({row["tile"] for row in sparse})
    tiles = f"{least} exact tiles" if least == most else f"{least} to {most} exact tiles"
    return (
        f"{counted}, in {len(budgets)} of their {len(heads)} heads, with {tiles} of {tile} keys: {percent(density)} of their pairs are "
        f"exact at {_span({row['length'] for row in sparse})} tokens."
    )


def _span(numbers: set[int]) -> str:
    least, most = min(numbers), max(numbers)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _map(rows: Sequence[Row]) -> dict[str, Any]:
    """A row for each attention whose heads were scored; runtimes share scores, so that each site is shown once."""
    scored: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["heads"]:
            scored.setdefault((row.get("program", ""), row["site"]), []).append(row)
    count = max((len(found[0]["heads"]) for found in scored.values()), default=0)
    shares = [_share(head, found[0]) for found in scored.values() for head in found[0]["heads"]]
    tolerances = {found[0]["tolerance"] for found in scored.values()}
    return {
        "columns": list(range(count)),
        "tolerance": ", ".join(number(each) for each in sorted(tolerances)),
        "rows": [
            {
                "site": site,
                "became": ", ".join(f"{'sparse' if row['action'] == SPARSE else 'dense'} on {_place(row)}" for row in found),
                "density": percent(found[0]["density"]),
                "cells": [_cell(head, found[0], max(shares)) for head in found[0]["heads"]],
            }
            for (_, site), found in scored.items()
        ],
    }


def _share(head: Row, row: Row) -> float:
    """Share of the keys in a head's exact tiles, 0 for a dense head."""
    return min(1.0, (head["budget"] or 0) * row["tile"] / row["length"])


def _cell(head: Row, row: Row, largest: float) -> dict[str, Any]:
    budget, error = head["budget"], number(head["error"], 2)
    if budget is None:
        return {"budget": "dense", "error": "", "strength": None, "title": f"head {head['head']} stays dense"}
    return {
        "budget": str(budget),
        "error": error,
        "strength": f"{_STRONGEST * _share(head, row) / (largest or 1.0):.0f}",
        "title": f"head {head['head']}: {budget} tiles of {row['tile']} keys exact, relative error {error}",
    }


def _left(rows: Sequence[Row]) -> list[dict[str, str]]:
    """One row for each sentence: a large model leaves many attentions for one reason, and the same ones on both runtimes."""
    sites: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["action"] != SPARSE:
            reason = row["reason"].replace(f"attention {row['site']} ", "this attention ")
            sites.setdefault((reason, _place(row)), []).append(row["site"])
    places: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (reason, place), names in sites.items():
        places.setdefault((reason, tuple(names)), []).append(place)
    return [
        {"places": " and ".join(found), "reason": reason, "sites": few(names), "count": str(len(names))}
        for (reason, names), found in places.items()
    ]


def _head(row: Row) -> str:
    return f"{row['site']}, head {row['head']}"


def _note(found: Sequence[Row]) -> str:
    """What was looked at, and as what."""
    if not found:
        return ""
    tokens = _span({row["tokens"] for row in found})
    said = "Attention is a random walk among tokens; these are the spectra of its symmetric Laplacian, dense and sparse, from one text"
    if any(row["causal"] for row in found):
        said += (
            f". Of causal heads: the first {tokens} tokens, and the undirected graph of their weights, in which a token meets those it "
            "reads and those that read it, since a causal walk itself ends at the first token"
        )
    thinned = sorted({row["every"] for row in found if not row["causal"]})
    if thinned:
        whole = "all tokens" if thinned == [1] else f"one token in {', '.join(map(str, thinned))}, with tiles as much smaller"
        said += f". Of heads that look both ways: {whole}, {tokens} in all"
    return said + ". Errors are those of the whole length, and they decide; the paper's quality and its tree (Figure 4) do not."


def _figures(found: Sequence[Row]) -> list[dict[str, Any]]:
    """Eigenvalues in rising order, on one scale for all heads: dense as a line, sparse as dots."""
    highest = max((value for row in found for side in ("dense", "sparse") for value in row[side]["eigenvalues"]), default=1.0)
    return [
        {
            "caption": f"{_head(row)}: {_budget(row)}, error {number(row['error'], 2)}",
            "line": " ".join(f"{x},{y}" for x, y in _points(row["dense"]["eigenvalues"], highest)),
            "dots": _points(row["sparse"]["eigenvalues"], highest),
            "highest": number(highest, 2),
            "last": str(len(row["dense"]["eigenvalues"])),
        }
        for row in found
    ]


def _points(values: Sequence[float], highest: float) -> list[tuple[str, str]]:
    step = (_RIGHT - _LEFT) / max(1, len(values) - 1)
    scale = (_BOTTOM - _TOP) / (highest or 1.0)
    return [(f"{_LEFT + step * place:.1f}", f"{_BOTTOM - scale * value:.1f}") for place, value in enumerate(values)]


def _budget(row: Row) -> str:
    return f"{row['budget']} exact tiles"


def _numbers(found: Sequence[Row]) -> list[tuple[str, list[str]]]:
    """(what it is, its text for each head): the decision and what it rests on first, then dense → sparse."""

    def both(key: str, digits: int = 3) -> list[str]:
        return [f"{number(row['dense'][key], digits)} → {number(row['sparse'][key], digits)}" for row in found]

    rows = [
        ("decision here, by measured error", [row["decision"] for row in found]),
        ("measured relative error of the output", [number(row["error"]) for row in found]),
        ("exact tiles", [str(row["budget"]) for row in found]),
        ("the paper's quality Q of the dense walk", [number(row["dense"]["quality"]) for row in found]),
        ("the paper's tree (Figure 4) says", [row["advice"] for row in found]),
        ("spectral gap λ₂", both("gap")),
        ("largest eigenvalue", both("largest")),
        ("clusters that Q asks for", [str(row["clusters"]) for row in found]),
        ("clusters that the largest gap shows", both("clusters_shown")),
        ("Q at that many clusters", [number(row["shown"]["quality"]) for row in found]),
        ("|sin Θ| of their eigenvectors (Davis-Kahan bound)", [_bounded(row["shown"]) for row in found]),
        ("|sin Θ| of as many as Q asks for (bound)", [_bounded(row) for row in found]),
        ("steps until mixed (bound)", [_steps(row) for row in found]),
        ("effective rank of the weights", both("effective_rank")),
        ("excess free energy, nats a query", [number(row["excess_free_energy_nats"]) for row in found]),
        ("heat lost beyond these modes at time 1", both("heat_lost_at_time_1")),
        ("weights computed (density)", [f"{row['edges']:,} ({percent(row['density'])})" for row in found]),
        ("sparsifier error ε lies in", [" to ".join(number(end) for end in row["sparsifier_error"]) for row in found]),
        ("N/ε², the order of edges that ε needs", [number(row["least_edges"]) for row in found]),
    ]
    return rows if found else []


def _bounded(row: Row) -> str:
    """A bound above sqrt(k), which no angle exceeds, says nothing."""
    bound = row["sin_theta_at_most"]
    says = number(bound) if bound is not None and bound < row["clusters"] ** 0.5 else "none"
    return f"{number(row['sin_theta'])} ({says})"


def _steps(row: Row) -> str:
    sides = [(row[side]["mixing_steps"], row[side]["mixing_steps_at_most"]) for side in ("dense", "sparse")]
    return " → ".join(f"{f'over {MOST_STEPS}' if steps is None else steps} ({number(bound)})" for steps, bound in sides)
