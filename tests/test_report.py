"""The three report files: a strict JSON contract, and pages in which names from a model are text and never markup."""

import json
import re
from html.parser import HTMLParser

import pytest

from szilard.cost_model.plan import Budget, Choice, Option, Phase, Plan, Workload
from szilard.rewriter.report import write_report

EVIL = "<script>alert('x')</script>|`b`"
OPTIONS = (Option("leave", 2.0, 0.2, "measured"), Option("int8_static", 0.5, 0.1, "measured", 0.004, (1.2, 1.8), EVIL))


def choice(site: str, action: str) -> Choice:
    return Choice(site, "linear", action, OPTIONS, (site, EVIL), "onnxruntime", f"Because {EVIL}")


PLAN = Plan(EVIL, Workload((Phase(EVIL, {EVIL: (1, 7)}),)), Budget(), (choice(EVIL, "int8_static"), choice("other", "leave")))
REPORT = {
    "format": 1,
    "model": {"source": EVIL, "notes": [EVIL]},
    "target": EVIL,
    "sites": {"linear": 2},
    "choices": [{"site": EVIL, "error_predicted": float("nan")}],
    "misses": [{"op": EVIL, "kind": "attention", "reason": EVIL}],
    "joules": {"before": 4.0, "after": 2.5, "label": "modelled", "terms": {"before": {EVIL: 3.0}, "after": {EVIL: 2.5}}},
    "seconds": {"before": 0.4, "after": 0.2, "label": "measured"},
    "floors": {"landauer_joules": 1e-12, "io_bytes": 4e6, "at_least": True, "unpriced": [EVIL]},
    "error": {"budget": 0.02, "measured": 0.0041, "metric": EVIL, "metric_before": 1.0, "metric_after": 1.0},
    "steps": [{"pass": EVIL, "changed": 2, "nodes_before": 9, "nodes_after": 13, "max_error": 0.1, "seconds": 1.5}],
    "rolled_back": [EVIL],
}


class Reader(HTMLParser):
    """Tags that are opened and closed, and every attribute value."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.values: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.values += [value or "" for _, value in attrs]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_report(folder, REPORT, PLAN)
    return folder


def test_json_is_strict_and_whole(folder):
    def refuse(text):
        raise AssertionError(f"{text} is not JSON")

    read = json.loads((folder / "report.json").read_text(), parse_constant=refuse)
    assert read["choices"][0]["error_predicted"] is None
    assert read["misses"] == REPORT["misses"]
    assert list(read) == list(REPORT)


def test_html_is_well_formed_and_escapes_names(folder):
    html = (folder / "report.html").read_text()
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    assert "script" not in reader.seen
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in html
    assert reader.text.count(EVIL) >= 12


def test_html_needs_no_network(folder):
    html = (folder / "report.html").read_text()
    assert not re.search(r"https?://|<link|<img|@import|url\(", html)
    assert len(html) < 40_000


def test_html_serves_light_and_dark(folder):
    html = (folder / "report.html").read_text()
    assert "prefers-color-scheme: dark" in html
    variables = set(re.findall(r"var\((--\w+)\)", html))
    light, dark = html.split("prefers-color-scheme: dark")
    for name in variables:
        assert f"{name}:" in light
        assert f"{name}:" in dark


def test_every_number_has_its_label_and_floors_decide_nothing(folder):
    for name in ("report.html", "report.md"):
        text = (folder / name).read_text()
        assert "measured" in text
        assert "modelled" in text
        assert "never decides" in text
        assert "at least 2.50 J" in text


def test_markdown_tables_hold_together(folder):
    text = (folder / "report.md").read_text()
    assert "<script>" not in text
    blocks = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(blocks) == 5
    for block in blocks:
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(columns) == 1, block
        assert block.splitlines()[1].startswith("|---")


def test_a_report_without_choices(tmp_path):
    plan = Plan("cpu", Workload((Phase("1x7", {"ids": (1, 7)}),)), Budget(), ())
    write_report(tmp_path, {"format": 1, "model": {}, "joules": {"before": 1.0, "after": 1.0}}, plan)
    assert "Nothing was changed" in (tmp_path / "report.md").read_text()
    assert "What was changed" not in (tmp_path / "report.html").read_text()
