"""The tables of the source again, small: benchmarks/paper_tables.py."""

import io

import pytest
import torch
from rich.console import Console

from szilard.benchmarks import paper_tables
from szilard.benchmarks.attention_accuracy import quality
from szilard.benchmarks.paper_tables import compared, naive, ours, planted, printed, printed_fast, show


def test_the_form_that_is_timed_errs_as_the_printed_one():
    """Other draws of the samples, the same clusters: errors of the two are alike, and both are far from those of dense attention."""
    operands = planted(1, 256, spread=0.8)
    dense = naive(*operands)
    first, second = (quality([form(*operands, 16, 16)], [dense]) for form in (printed, printed_fast))
    assert first.error == pytest.approx(second.error, rel=0.25)
    assert first.error > 0.02


def test_draws_share_their_centres_and_nothing_else():
    first, again, other = planted(1, 256), planted(1, 256), planted(2, 256)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    nearest = torch.cdist(first[1][0], other[1][0]).min(-1).values
    assert nearest.max() < 0.3 * 2 * 64**0.5
    assert planted(1, 256, kind="uniform")[0].std() == pytest.approx(1, rel=0.05)


def test_a_row_has_all_that_the_table_shows(monkeypatch):
    monkeypatch.setattr(paper_tables, "PRINTED_TABLE", {1024: (1.0, 2.0, 0.5), 4096: (1.0, 2.0, 0.5)})
    operands = planted(1, 256)
    row = compared(operands, ours(operands, planted(2, 256)), 16, 16, rounds=1)
    console = Console(file=io.StringIO(), width=150)
    show({"table6": {"planted 1024": row, "planted 4096": row, "uniform 1024": row}}, console)
    text = console.file.getvalue()
    assert "paper, as it says" in text
    assert f"{row['default_error']:.2f}" in text
    assert "N^0.00" in text
