"""JSON that every reader accepts."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from szilard.rewriter.json_text import json_text, plain


@dataclass(frozen=True)
class Pair:
    left: tuple[int, ...]
    right: float


def test_numpy_numbers_and_dataclasses_become_plain():
    data = {"a": np.float32(0.5), "b": np.arange(3), "c": Pair((1, 2), 3.5), "d": Path("x/y"), "e": {"z", "b"}, 7: True}
    assert json.loads(json_text(data)) == {
        "a": 0.5, "b": [0, 1, 2], "c": {"left": [1, 2], "right": 3.5}, "d": "x/y", "e": ["b", "z"], "7": True,
    }  # fmt: skip


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), np.float64("nan"), np.array([np.inf])])
def test_numbers_that_are_not_finite_become_null(value):
    text = json_text({"x": value})
    assert "null" in text
    assert "NaN" not in text
    assert "Infinity" not in text


def test_anything_else_is_named():
    with pytest.raises(TypeError, match="complex"):
        plain({"x": 1j})
