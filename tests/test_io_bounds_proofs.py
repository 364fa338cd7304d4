"""The two steps in the proofs of io_bounds.py that are plain inequalities: what the words at hand allow, and the sum over segments."""

from math import sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.cost_model.io_bounds import attention_words, conv_words, matmul_words

WORDS = st.floats(0, 1e4)
MEMORY = st.floats(3, 1e5)


def of_matmul(at_hand):
    return (at_hand / 3) ** 1.5


def of_pairs(at_hand):
    return (at_hand / 3) ** 2


def of_attention(at_hand, depth):
    return of_matmul(at_hand) if at_hand <= 3 * depth**2 else (at_hand + depth**2) ** 2 / (16 * depth)


def most_products(charges, fast, segment, allowed):
    """The most products of a schedule of `charges` charges, cut into segments of `segment`, the first of `fast` + `segment`."""
    first = fast + segment
    if charges <= first:
        return allowed(charges)
    whole, rest = divmod(charges - first, segment)
    return (1 + whole) * allowed(first) + allowed(fast + rest)


@given(WORDS, WORDS, WORDS, WORDS, WORDS, st.floats(1, 200))
@settings(max_examples=500, deadline=None)
def test_words_at_hand_allow_no_more_terms_of_attention_than_stated(q, k, o, v, s, depth):
    terms = sqrt(q * k * o * v) / depth + sqrt(s * o * v)
    assert terms <= of_attention(q + k + o + v + s, depth) * (1 + 1e-9)


@given(st.floats(0, 1e7), MEMORY, st.floats(1, 49))
@settings(max_examples=500, deadline=None)
def test_segments_of_a_cold_start_need_nothing_subtracted(charges, fast, overlap):
    products = most_products(charges, fast, 2 * fast, of_matmul)
    assert matmul_words(products, fast) <= charges * (1 + 1e-9)
    pairs = most_products(charges, fast, fast, of_pairs)
    assert 2.25 * pairs / fast <= charges * (1 + 1e-9)
    assert conv_words(min(sqrt(overlap) * products, pairs), fast, overlap) <= charges * (1 + 1e-9)


@given(st.floats(0, 1e7), MEMORY, st.floats(1, 256))
@settings(max_examples=500, deadline=None)
def test_segments_of_attention_need_nothing_subtracted(charges, fast, depth):
    segment = 2 * fast if fast <= depth**2 else fast + depth**2
    terms = most_products(charges, fast, segment, lambda at_hand: of_attention(at_hand, depth))
    assert attention_words(terms, depth, 1.0, fast) <= charges * (1 + 1e-9)


@pytest.mark.parametrize("fast", [100.0, 1e4])
def test_the_segments_are_chosen_well(fast):
    """Long schedules reach the constants: the inequalities above would not hold for larger ones."""
    charges = 1e4 * fast
    assert matmul_words(most_products(charges, fast, 2 * fast, of_matmul), fast) > 0.999 * charges
    assert 2.25 * most_products(charges, fast, fast, of_pairs) / fast > 0.999 * charges
    terms = most_products(charges, fast, fast + 64, lambda at_hand: of_attention(at_hand, 8))
    assert attention_words(terms, 8, 1.0, fast) > 0.999 * charges
