"""Every printed line with a figure in J, s, W or B says how it was had: in itself, or in the head of its table."""

import re

import pytest

from szilard.rewriter.command_line_estimate import estimate_text
from szilard.rewriter.command_line_measure import compare_text
from szilard.rewriter.command_line_serve import serve_limits_text
from szilard.rewriter.estimate import estimate
from szilard.rewriter.explain import explain, explain_text
from szilard.rewriter.json_text import json_text
from szilard.rewriter.serve_limits import Asked, serve_limits

from . import test_explain, test_measure_text, tiny_decoder

FIGURE = re.compile(r"(?<![\w.])\d[\d.,]*(e[-+]?\d+)? [fpnµmkMGTP]?(J|s|W|B|flop)\b")
LABELS = ("measured", "modelled", "replayed", "recorded", "unavailable", "roofline", "table")


def unlabelled(text: str) -> list[str]:
    """Lines with figures that neither name a label nor stand below a head that does."""
    found, head, before = [], "", ""
    for line in text.splitlines():
        # A long sentence goes on in the next line, two spaces in.
        said = (line, head, before if line.startswith("  ") else "")
        if not FIGURE.search(line):
            head = line
        elif not any(label in words for label in LABELS for words in said):
            found.append(line)
        before = line
    return found


def test_a_figure_without_a_label_is_found():
    assert unlabelled("it takes 3.00 ms") == ["it takes 3.00 ms"]
    assert unlabelled("it takes 3.00 ms (measured)\n\n  kind  joules\n  a  1.5 J\n  b  2 J") == ["  a  1.5 J", "  b  2 J"]
    assert unlabelled("kind  modelled joules\na  1.5 J\n\nbatch 4, 3 tokens") == []


def test_estimates():
    found = estimate(tiny_decoder.traced("sdpa_mask"), target="h100", workload=["2x9", "2x1@40"])
    text = estimate_text(found)
    assert sum(bool(FIGURE.search(line)) for line in text.splitlines()) > 15
    assert unlabelled(text) == []


def test_operating_points():
    asked = Asked(50, memory=1.5e6, arrivals=3.0, latency=1e-3)
    text = serve_limits_text(serve_limits(tiny_decoder.traced("sdpa_mask"), target="h100", asked=asked))
    assert sum(bool(FIGURE.search(line)) for line in text.splitlines()) > 15
    assert unlabelled(text) == []


@pytest.mark.parametrize("joules", [test_measure_text.UNSEEN, test_measure_text.SEEN])
@pytest.mark.parametrize("source", ["roofline", "plan", "rewrite"])
def test_measurements(joules, source):
    seconds = {**test_measure_text.SECONDS, "predicted_from": source}
    assert unlabelled(test_measure_text.text(test_measure_text.run(joules=joules, seconds=seconds))) == []


def test_comparisons():
    joules = {"a": 1.0, "b": 2.0, "ratio": 2.0, "low": 1.9, "high": 2.1, "label": "measured"}
    error = {"unavailable": "no sample"}
    seconds = {"a": 1.0, "b": 2.0, "ratio": 2.0, "low": 1.9, "high": 2.1}
    assert unlabelled(compare_text({"seconds": seconds, "joules": joules, "error": error}, "a.onnx", "b.onnx")) == []


def test_choices(tmp_path):
    (tmp_path / "plan.json").write_text(json_text(test_explain.PLAN.to_json()))
    (tmp_path / "report.json").write_text(json_text(test_explain.REPORT))
    for site in ("", "layer.0.query"):
        text = explain_text(explain(tmp_path, site))
        assert FIGURE.search(text)
        assert [line for line in unlabelled(text) if "It saves" not in line] == []
