"""Tests of benchmarks/attention_limits.py: its limits hold, and the peer's rounding is of the same size."""

import json

from szilard.benchmarks import attention_limits


def test_what_must_be_equal_is_so_to_rounding(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(attention_limits, "RESULTS", tmp_path)
    monkeypatch.setattr(attention_limits, "LENGTH", 200)
    monkeypatch.setattr(attention_limits, "HEADS", 2)
    attention_limits.main([])
    found = json.loads((tmp_path / "attention-limits.json").read_text())["eps"]
    assert set(found) == {"float32", "float16", "bfloat16"}
    for dtype, row in found.items():
        most = 1.0 if dtype != "float32" else 40.0
        assert all(0 <= missed <= most for missed in row.values()), (dtype, row)
        assert row["torch SDPA"] > 0
    assert "no tile exact" in capsys.readouterr().out
