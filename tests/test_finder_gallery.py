"""Attention is found and rewritten without a change of the outputs in 24 transformers architectures (`models/architectures.py`), as torch
and as ONNX, by the same code as the benchmark's table."""

from dataclasses import replace

import pytest
import transformers

from szilard.benchmarks import finder
from szilard.benchmarks.finder import Outcome
from szilard.benchmarks.finder_cases import ROADS, Case, cases
from szilard.models.architectures import ARCHITECTURES, SPELLINGS


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("finder")


def check(case, cache):
    """All are found; one operator each where the exporter has one, and the outputs stay after a rewrite of the others."""
    found = finder.outcome(case, cache)
    assert found.fault == ""
    assert (found.found, found.wrong) == (found.expected, False), (found, found.missed)
    operators = found.expected if case.spelling == "sdpa" and case.road != "onnx 18" else 0
    assert found.kept >= operators
    if case.architecture != "gemma2":
        assert found.covered == found.expected, found.refused
    assert all("softcap" in reason or "capped" in reason for reason in found.refused)


def test_there_are_24_and_each_has_a_count_of_its_own():
    assert len(ARCHITECTURES) == 24
    counts = {name: made.attentions() for name, made in ARCHITECTURES.items()}
    assert {name: count for name, count in counts.items() if count != 2} == {
        "distilbert": 3, "t5": 4, "bart": 4, "whisper": 5, "clip": 4
    }  # fmt: skip
    assert len(cases()) == len(ROADS) * sum(len(made.spellings) for made in ARCHITECTURES.values())


def test_a_small_case(cache, monkeypatch):
    bert = ARCHITECTURES["bert"]
    small = replace(bert, settings=bert.settings | {"num_hidden_layers": 1})
    monkeypatch.setitem(ARCHITECTURES, "bert", small)
    check(Case("bert", "eager", "torch"), cache / "small")


@pytest.mark.long
def test_spellings_are_those_of_transformers():
    for name, made in ARCHITECTURES.items():
        operator = getattr(transformers, made.kind)._supports_sdpa
        assert made.spellings == (SPELLINGS if operator else SPELLINGS[:1]), name


@pytest.mark.long(share=0.03)
@pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case.architecture}-{case.spelling}-{case.road}".replace(" ", "-"))
def test_every_architecture(case, cache):
    check(case, cache)


def test_the_last_line_counts_what_is_wrong():
    case, other = Case("bert", "eager", "torch"), Case("t5", "sdpa", "onnx 18")
    right, refused = (
        Outcome(2, kept=1, rewritten=1, error=1e-7),
        Outcome(6, kept=3, refused=("It has a cap.",), missed=("A miss.",)),
    )
    assert finder.summary({case: right, other: refused}) == (
        "5 of 8 sites (62.5%) kept (4) or rewritten (1), 1 refused, 0 wrong rewrites."
    )
    for wrong in (Outcome(2, rewritten=2, error=1e-3), Outcome(2, kept=3), Outcome(2, rewritten=2, error=float("nan"))):
        assert finder.summary({case: wrong}).endswith("1 wrong rewrites.")
        assert wrong.covered == 2
    text = finder.table({case: right, other: refused})
    assert "2/2 r1 1e-07" in text
    assert "4/6 refused 1" in text
    assert "refused (1) t5 sdpa, onnx 18: It has a cap." in text
    assert "missed (1) t5 sdpa, onnx 18: A miss." in text


def test_what_goes_into_the_file():
    case, broken = Case("bert", "eager", "torch"), Case("clip", "sdpa", "onnx 23")
    found = finder.record({case: Outcome(2, rewritten=2, error=1e-7), broken: Outcome(4, fault="InputError: no")})
    assert (found["totals"]["share"], found["totals"]["failed"], found["totals"]["largest_error"]) == (2 / 6, 1, 1e-7)
    assert found["summary"].startswith("2 of 6 sites (33.3%)")
    assert [(each["architecture"], each["road"], each["expected"]) for each in found["cases"]] == [
        ("bert", "torch", 2), ("clip", "onnx 23", 4)
    ]  # fmt: skip
    assert set(found["versions"]) >= {"torch", "transformers"}


def test_a_model_that_cannot_be_exported_counts_as_not_found(tmp_path, monkeypatch):
    def broken(case, cache):
        raise RuntimeError("no such operator\nand more")

    monkeypatch.setattr(finder, "program_of", broken)
    found = finder.outcome(Case("clip", "sdpa", "onnx 23"), tmp_path)
    assert (found.expected, found.covered, found.fault) == (4, 0, "RuntimeError: no such operator")
    assert found.cell() == "0/4 failed"
