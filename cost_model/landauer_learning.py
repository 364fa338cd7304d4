"""Landauer floors of training and of generating text, in the form that holds, with the printed form beside it where the two differ.

kT ln 2 belongs to bits, kT to nats. T is the temperature here, never the number of tokens. These floors are far below any machine.
`inference_bits` and `inference_gap` are in the report of a language model whose perplexity was measured. The rest mirrors the paper, whose
examples are tests: nothing here trains, so no command asks for the parameters, labels and bits of a training.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log2

import numpy as np
from scipy.special import entr, rel_entr

from .landauer import BOLTZMANN, ROOM, landauer_joules


def learning_joules(prior: Sequence[float], posterior: Sequence[float], kelvin: float = ROOM) -> float:
    """Least heat of a memory whose states go from probabilities `prior` to `posterior` [J]: kT (H(P) - H(Q)), H in nats, at least 0.

    This is the second law, heat/T + k (H(Q) - H(P)) >= 0, for states of equal energy; with P uniform it is kT KL(Q || P). Theorem 3.6
    prints kT ln 2 [KL(Q || P) + H(Q) - H(P)]: the sign of the entropies is turned against its own proof, and with P uniform the
    bracket is zero whatever was learned, even for the erasure of a bit. Raises ValueError when the two are no probabilities of the same
    states.
    """
    before, after = _distribution(prior), _distribution(posterior)
    if before.shape != after.shape:
        raise ValueError(f"prior and posterior must be over the same states, got {before.size} and {after.size}")
    return max(0.0, BOLTZMANN * kelvin * float(entr(before).sum() - entr(after).sum()))


def learning_joules_printed(prior: Sequence[float], posterior: Sequence[float], kelvin: float = ROOM) -> float:
    """Theorem 3.6 as printed [J], its divergence and entropies read as bits. NOT a floor; see `learning_joules`."""
    before, after = _distribution(prior), _distribution(posterior)
    nats = float(rel_entr(after, before).sum() + entr(after).sum() - entr(before).sum())
    return BOLTZMANN * kelvin * nats


def training_bits(parameters: float, parameter_bits: float, labels: float, label_bits: float) -> float:
    """Bits that training overwrites at least: the memory of the parameters once, and the labels that stream through a buffer and
    are not kept. `label_bits` is H(Y|X), the bits of a label that its input leaves open (a model's loss per label bounds it from above).

    Equation 9 of Theorem 3.17 without its third term, I(D; theta): what is learned is in the parameters and was counted with them.
    Example 3.1 sets H(Y|X) to 16 bits, the size of a token's number, which is what a label would carry if text could not be predicted.
    """
    return parameters * parameter_bits + labels * label_bits


def training_bits_printed(
    parameters: float, parameter_bits: float, labels: float, label_bits: float, extracted_bits: float
) -> float:
    """The bracket of equation 9 as printed: `training_bits` and I(D; theta) = `extracted_bits` once more."""
    return training_bits(parameters, parameter_bits, labels, label_bits) + extracted_bits


def inference_bits(tokens: float, perplexity: float) -> float:
    """Bits overwritten by generating `tokens` tokens into a buffer that is used again: log2(perplexity) each.

    Equation 10 of Theorem 3.18 without its "+ log p", which nothing derives, and with H(next token) = log2 PPL; the theorem
    says "perplexity in bits". Raises ValueError for a perplexity below 1.
    """
    if perplexity < 1:
        raise ValueError(f"a perplexity is at least 1, got {perplexity}")
    return tokens * log2(perplexity)


def inference_bits_printed(tokens: float, perplexity: float, parameters: float) -> float:
    """The bracket of equation 10 as printed, its logarithm to base 2 since kT ln 2 is for bits: tokens (log2 PPL + log2 p). NOT a floor."""
    return inference_bits(tokens, perplexity) + tokens * log2(parameters)


def inference_gap(joules_per_token: float, perplexity: float, kelvin: float = ROOM) -> float:
    """How many times the energy of a token is above the floor of its bits: E / (kT ln 2 log2 PPL), at least 1 (Corollary 3.19).

    The corollary's log is log2. It goes on that half the perplexity raises efficiency per useful bit by 1/log2 PPL; by its own measure a
    token then carries one bit less, so at the same joules each bit costs more. Raises ValueError unless the perplexity exceeds 1.
    """
    if perplexity <= 1:
        raise ValueError(f"a token of perplexity {perplexity} carries no bits; it must exceed 1")
    return joules_per_token / landauer_joules(log2(perplexity), kelvin)


def _distribution(values: Sequence[float]) -> np.ndarray:
    found = np.asarray(values, np.float64).reshape(-1)
    if not found.size or found.min() < 0 or abs(found.sum() - 1.0) > 1e-9:
        raise ValueError("probabilities must not be negative and must add up to 1")
    return found
