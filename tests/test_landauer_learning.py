"""Floors of training and inference: the paper's examples, printed and ours, and why they differ."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from szilard.cost_model.landauer import landauer_joules
from szilard.cost_model.landauer_learning import (
    inference_bits,
    inference_bits_printed,
    inference_gap,
    learning_joules,
    learning_joules_printed,
    training_bits,
    training_bits_printed,
)

GPT3 = {"parameters": 175e9, "parameter_bits": 16, "labels": 300e9, "label_bits": 16}


def test_erasing_bits_by_learning_costs_what_erasing_bits_costs():
    """From any of 2^n states to a single one. The printed form gives zero for it: its entropies have the wrong sign."""
    for bits in (1, 3, 8):
        uniform, known = np.full(2**bits, 0.5**bits), np.eye(2**bits)[0]
        assert learning_joules(uniform, known) == pytest.approx(landauer_joules(bits))
        assert learning_joules_printed(uniform, known) == pytest.approx(0, abs=1e-30)
        assert learning_joules(known, uniform) == 0


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=9))
def test_from_a_uniform_prior_the_floor_is_the_divergence_in_nats(weights):
    posterior = np.array(weights) / np.sum(weights)
    uniform = np.full(len(weights), 1 / len(weights))
    divergence = float(np.sum(posterior * np.log(posterior / uniform)))
    assert learning_joules(uniform, posterior) == pytest.approx(landauer_joules(1) / np.log(2) * divergence, abs=1e-30)
    assert learning_joules_printed(uniform, posterior) == pytest.approx(0, abs=1e-30)


def test_permuting_states_is_free_though_the_printed_form_charges_for_it():
    assert learning_joules([0.9, 0.1], [0.1, 0.9]) == pytest.approx(0, abs=1e-30)
    assert learning_joules_printed([0.9, 0.1], [0.1, 0.9]) > landauer_joules(1)


@pytest.mark.parametrize(
    ("prior", "posterior", "message"),
    [([0.5, 0.4], [1, 0], "add up"), ([1.5, -0.5], [1, 0], "negative"), ([1], [0.5, 0.5], "same states")],
)
def test_what_is_no_pair_of_distributions_is_refused(prior, posterior, message):
    with pytest.raises(ValueError, match=message):
        learning_joules(prior, posterior)


def test_the_training_example_as_printed_and_with_information_counted_once():
    """Example 3.1: 7.7e12 bits, 2.2e-8 J, 2e20 below 1300 MWh. Ours leaves out the 1e11 bits that the parameters hold already: 7.6e12."""
    printed = training_bits_printed(**GPT3, extracted_bits=1e11)
    assert printed == pytest.approx(7.7e12)
    assert landauer_joules(printed) == pytest.approx(2.2e-8, rel=0.01)
    assert 1300e6 * 3600 / landauer_joules(printed) == pytest.approx(2.1e20, rel=0.02)
    ours = training_bits(**GPT3)
    assert printed - ours == pytest.approx(1e11)
    assert ours == pytest.approx(7.6e12)
    assert landauer_joules(ours) == pytest.approx(2.18e-8, rel=0.01)


def test_labels_cost_their_conditional_entropy_not_their_size():
    """A model whose loss is 3 bits a token leaves 3 bits of each label open; the example's 16 is the width of a token's number."""
    assert training_bits(**{**GPT3, "label_bits": 3}) == pytest.approx(2.8e12 + 0.9e12)


def test_a_token_overwrites_the_logarithm_of_its_perplexity():
    assert inference_bits(1000, 16) == 4000
    assert inference_bits(1000, 1) == 0
    assert inference_bits_printed(1000, 16, 2**30) == 34_000  # 30 bits a token to name a parameter, which nothing derives
    with pytest.raises(ValueError, match="at least 1"):
        inference_bits(1, 0.5)


def test_half_the_perplexity_is_one_bit_less_for_each_token():
    """Corollary 3.19 says efficiency per bit rises by 1/log2 PPL = 1/4; by its own measure the same joules now carry 3 bits, not 4."""
    assert inference_bits(1, 8) == inference_bits(1, 16) - 1
    assert inference_gap(1e-3, 8) == pytest.approx(inference_gap(1e-3, 16) * 4 / 3)
    assert inference_gap(landauer_joules(4), 16) == pytest.approx(1)
    with pytest.raises(ValueError, match="no bits"):
        inference_gap(1e-3, 1)
