"""The report of a rewrite, from one dict: report.json for programs, report.md and a self-contained report.html for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..cost_model.plan import Plan
from .attention_view import attention_view
from .json_text import json_text, plain
from .report_view import report_view
from .structure_report import structure_view

_TEMPLATES = Path(__file__).parent / "templates"
_MARKDOWN = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "\\|", "`": "\\`", "\n": " ", "\r": " "})


def write_report(folder: Path, report: Mapping[str, Any], plan: Plan) -> None:
    """Write report.json, report.md and report.html into `folder`.

    `report` is the report.json contract (joules [J] and seconds [s] per call of the workload, errors as relative squared error). Three
    additions are shown where present: report["joules"]["terms"] = {"before": {term: J}, "after": {term: J}},
    report["joules"]["provenance"] = {provenance: share of the joules before} and
    report["seconds"]["predicted"] = {"before": s, "after": s}.
    """
    data = plain(report)
    view = {**report_view(data, plan), "attention": attention_view(data), "structure": structure_view(data)}
    (folder / "report.json").write_text(json_text(report), encoding="utf-8")
    (folder / "report.md").write_text(_markdown().get_template("report.md.j2").render(view), encoding="utf-8")
    (folder / "report.html").write_text(_html().get_template("report.html.j2").render(view), encoding="utf-8")


def _html() -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _markdown() -> Environment:
    """Markdown is read as text too, so that only what would start HTML or break a table is escaped, in every value."""
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=False,
        finalize=lambda value: str(value).translate(_MARKDOWN),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
