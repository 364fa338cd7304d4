"""Laws of the vocabulary: the families do not overlap and cover every word."""

from itertools import combinations

from szilard.cost_model import kinds

NAMES = "UNARY BINARY TERNARY REDUCTION SCAN ORDER VIEW MATERIALISED FREE MATMUL CONVOLUTION ATTENTION RECURRENT SOFTMAX NORM"
FAMILIES = {name: getattr(kinds, name) for name in (*NAMES.split(" "), "POOL", "QUANTIZE", "CONTROL", "COLLECTIVE")}


def test_families_do_not_overlap() -> None:
    for left, right in combinations(FAMILIES, 2):
        assert not FAMILIES[left] & FAMILIES[right], (left, right)


def test_families_cover_the_vocabulary() -> None:
    assert frozenset().union(*FAMILIES.values()) | {"einsum", "resize"} == kinds.KINDS


def test_sub_families_belong_to_their_family() -> None:
    assert kinds.COMPARISON <= kinds.ELEMENTWISE
    assert kinds.GATHER | kinds.SCATTER <= kinds.MATERIALISED


def test_other_kind_keeps_the_native_name() -> None:
    kind = kinds.other("com.example::Fancy")
    assert kind == "other:com.example::Fancy"
    assert kinds.is_other(kind)
    assert kind not in kinds.KINDS
    assert not any(kinds.is_other(word) for word in kinds.KINDS)
