"""What became of each attention of a model: sparse or not, why, and the budget and error of each of its heads, as plain data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..cost_model.plan import Choice
from ..cost_model.sites import AttentionSite
from .attention_evidence import spectral_evidence
from .head_scores import HeadScores
from .optimise import Optimised
from .solve import eligible, refused

SPARSE = "spectral_sparse"


def attention_report(done: Sequence[Optimised], progress: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Two parts of report.json. "attention": a row for each attention on each runtime, with the heads of those whose error was measured
    (`heads` is empty for others). "spectral": a row for each sampled head (`spectral_evidence`)."""
    rows = [_site(choice, each) for each in done for choice in each.choices if choice.kind == "attention"]
    sparse = [row["site"] for row in rows if row["action"] == SPARSE]
    scores = {key: score for each in done for key, score in each.scores.items()}
    return {"attention": rows, "spectral": spectral_evidence(scores, sparse, progress)}


def why_dense(choice: Choice) -> str:
    """One sentence that says why an attention was not made sparse."""
    option = next((option for option in choice.options if option.action == SPARSE), None)
    if option is None:
        return "Spectral sparse attention is not offered here: its ops cannot be cut out of the model."
    if not eligible(option, choice.before):
        return _sentence(option.reason or refused(option, choice.before))
    return choice.reason if choice.action == "leave" else f"{choice.action} was taken instead. {choice.reason}"


def _site(choice: Choice, each: Optimised) -> dict[str, Any]:
    site = next(site for site in each.found.sites if site.id == choice.site)
    assert isinstance(site, AttentionSite)
    score = each.scores.get((choice.site, SPARSE))
    heads = score.heads if score else None
    return {
        "site": choice.site,
        "runtime": choice.runtime,
        "action": choice.action,
        "reason": choice.reason if choice.action == SPARSE else why_dense(choice),
        "length": site.key_length,
        "causal": site.sees_no_later,
        "tile": heads.tile if heads else None,
        "tolerance": heads.tolerance if heads else None,
        "density": heads.density if heads else None,
        "heads": _heads(heads) if heads else [],
    }


def _heads(heads: HeadScores) -> list[dict[str, Any]]:
    pairs = zip(heads.budgets, heads.errors, strict=True)
    return [{"head": head, "budget": budget, "error": error} for head, (budget, error) in enumerate(pairs)]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."
