"""Long texts are long, and no held-out text repeats a passage of a calibration text."""

from itertools import combinations

import pytest

from szilard.models import long_texts

NAMES = (*long_texts.CALIBRATION, *long_texts.HELD_OUT)


def passages(name: str, length: int = 200) -> set[str]:
    """Every run of `length` characters that starts a word."""
    text = " ".join(long_texts.long_text(name).split())
    return {text[start : start + length] for start in range(len(text) - length) if text[start - 1] == " "}


@pytest.mark.parametrize("name", NAMES)
def test_texts_are_long(name):
    assert len(long_texts.long_text(name)) > 40_000


def test_no_two_texts_share_a_passage():
    found = {name: passages(name) for name in NAMES}
    for one, other in combinations(NAMES, 2):
        assert not found[one] & found[other], (one, other)


def test_an_unknown_text_is_refused():
    with pytest.raises(KeyError):
        long_texts.long_text("war and peace")
