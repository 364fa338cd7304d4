"""Two thin products: the error that singular values promise, the ranks, and the layers that share a first product."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.cost_model.errors import InputError
from szilard.kernels.low_rank.factors import (
    RANK_STEP,
    SHARES,
    damped_gram,
    more_accurate,
    output_directions,
    prepare_low_rank,
    rank_of,
    simulate,
    stand_in,
)

sizes = st.integers(1, 40)


def layer(seed: int, features: int, columns: int, rows: int):
    """(W, x) with inputs whose directions differ much in size, as activations do."""
    draw = np.random.default_rng(seed)
    spread = np.exp(draw.standard_normal(features) * 1.5)
    x = (draw.standard_normal((rows, features)) * spread) @ np.linalg.qr(draw.standard_normal((features, features)))[0]
    return draw.standard_normal((features, columns)).astype(np.float32), x.astype(np.float32)


def squared(difference, gram) -> float:
    return float(np.trace(difference.T @ gram @ difference))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), sizes, sizes, st.integers(2, 50), st.floats(0, 1))
def test_the_error_is_the_tail_of_the_singular_values(seed, features, columns, rows, share):
    weight, x = layer(seed, features, columns, rows)
    gram = damped_gram(x)
    directions, values = output_directions(weight, gram)
    rank = int(share * len(values))
    kept = directions[:, :rank]
    assert np.all(np.diff(values) <= 1e-9 * values[0])
    known = np.diag((values > 1e-7 * values[0]).astype(float))
    np.testing.assert_allclose(directions.T @ directions, known, atol=1e-6)
    found = squared(weight - weight @ kept @ kept.T, gram)
    assert found == pytest.approx(np.sum(values[rank:] ** 2), rel=1e-6, abs=1e-7 * np.sum(values**2))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(4, 30), st.integers(4, 30), st.integers(1, 4))
def test_no_other_matrix_of_that_rank_is_closer(seed, features, columns, rank):
    weight, x = layer(seed, features, columns, 40)
    gram = damped_gram(x)
    kept = output_directions(weight, gram)[0][:, :rank]
    best = squared(weight - weight @ kept @ kept.T, gram)
    draw = np.random.default_rng(seed)
    plain_left, sizes_, plain_right = np.linalg.svd(weight.astype(np.float64), full_matrices=False)
    plain = (plain_left[:, :rank] * sizes_[:rank]) @ plain_right[:rank]
    near = (weight @ kept) @ kept.T + draw.standard_normal((features, rank)) @ draw.standard_normal((rank, columns)) * 0.01
    left, values, right = np.linalg.svd(near, full_matrices=False)
    for other in (plain, (left[:, :rank] * values[:rank]) @ right[:rank]):
        assert best <= squared(weight - other, gram) + 1e-9 * squared(weight, gram)


@pytest.mark.parametrize("biased", [True, False])
def test_layers_that_read_the_same_x_share_the_first_product(biased):
    weight, x = layer(0, 96, 80, 300)
    x = x + 3
    parts, biases = (
        [weight[:, :30], weight[:, 30:]],
        [np.ones(30, np.float32), np.zeros(50, np.float32)] if biased else [None] * 2,
    )
    first, second = prepare_low_rank("low_rank_half", parts, biases, x)
    assert first.scalars["rank"] == rank_of("low_rank_half", 96, 80) == RANK_STEP
    assert first.tensors["first"] is second.tensors["first"]
    assert ("bias" in first.tensors) == biased
    found = np.concatenate([simulate(part, torch.from_numpy(x)).numpy() for part in (first, second)], axis=1)
    bias = np.repeat([1.0, 0.0], [30, 50]) if biased else 0
    difference = found - (x @ weight + bias)
    mean = x.mean(axis=0) if biased else None
    kept = output_directions(weight, damped_gram(x, mean))[0][:, :RANK_STEP]
    centred = x - (mean if biased else 0)
    assert np.sum(difference**2) == pytest.approx(np.sum((centred @ (weight - weight @ kept @ kept.T)) ** 2), rel=1e-3)
    if biased:
        np.testing.assert_allclose(difference.mean(axis=0), 0, atol=1e-3 * np.abs(found).max())


def test_a_weight_of_low_rank_is_kept_as_it_is():
    draw = np.random.default_rng(0)
    weight = (draw.standard_normal((128, 10)) @ draw.standard_normal((10, 90))).astype(np.float32)
    x = draw.standard_normal((70, 128)).astype(np.float32)
    for seen in (None, x, np.zeros_like(x)):
        (part,) = prepare_low_rank("low_rank_half", [weight], [None], seen)
        np.testing.assert_allclose(simulate(part, torch.from_numpy(x)).numpy(), x @ weight, atol=1e-3)


@given(st.sampled_from(list(SHARES)), st.integers(1, 5000), st.integers(1, 5000))
def test_a_rank_keeps_to_its_share_of_the_multiplications(action, features, columns):
    rank = rank_of(action, features, columns)
    assert rank % RANK_STEP == 0
    assert rank * (features + columns) * SHARES[action] <= features * columns
    assert (rank + RANK_STEP) * (features + columns) * SHARES[action] > features * columns
    larger = more_accurate(action)
    assert not larger or rank_of(larger, features, columns) >= rank


def test_the_order_of_ranks():
    assert [more_accurate(name) for name in SHARES] == ["", "low_rank_half", "low_rank_quarter"]
    assert more_accurate("int8_static") == ""


def test_a_stand_in_has_the_sizes_of_the_real_factors():
    weight, x = layer(0, 96, 80, 40)
    parts, biases = [weight[:, :30], weight[:, 30:]], [np.ones(30, np.float32), None]
    real = prepare_low_rank("low_rank_half", parts, biases, x)
    for made, wanted in zip(stand_in("low_rank_half", parts, biases), real, strict=True):
        assert {k: v.shape for k, v in made.tensors.items()} == {k: v.shape for k, v in wanted.tensors.items()}
        assert (made.scalars, made.action) == (wanted.scalars, wanted.action)


def test_what_has_no_low_rank_is_named():
    weight, x = layer(0, 96, 80, 30)
    with pytest.raises(InputError, match="too small to be split at rank 16"):
        prepare_low_rank("low_rank_eighth", [weight], [None], x)
    with pytest.raises(InputError, match="too small to be split at rank 16"):
        stand_in("low_rank_eighth", [weight], [None])
    with pytest.raises(InputError, match="no rank 'low_rank_tenth'"):
        prepare_low_rank("low_rank_tenth", [weight], [None], x)
    with pytest.raises(InputError, match="not finite"):
        prepare_low_rank("low_rank_half", [weight], [None], x * np.inf)
    with pytest.raises(InputError, match=r"must be \[M, 96\], not \[30, 95\]"):
        prepare_low_rank("low_rank_half", [weight], [None], x[:, 1:])
    with pytest.raises(InputError, match="calibration inputs are 31 rows, too few to tell a rank of 16"):
        prepare_low_rank("low_rank_half", [weight], [None], np.concatenate([x, x[:1]]))
