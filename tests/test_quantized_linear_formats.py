"""Tests of kernels/quantized_linear/formats.py."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.cost_model.errors import InputError
from szilard.kernels.quantized_linear.formats import (
    CALIBRATED,
    FORMATS,
    INTEGER_INPUTS,
    effective_weight,
    merge,
    prepare,
    prepare_group,
    zero_points,
)

# Relative error of the weights, root mean square, of Gaussian columns: 8 bits keep 1 %, 4 bits in blocks of 32 keep 10 %.
WEIGHT_ERROR = {**dict.fromkeys(FORMATS, 0.012), "int4_weight": 0.11}


def layer(features, columns, rows, seed=0):
    generator = np.random.default_rng(seed)
    weight = generator.normal(size=(features, columns)).astype(np.float32)
    bias = generator.normal(size=columns).astype(np.float32)
    return weight, bias, generator.normal(size=(rows, features)).astype(np.float32)


def relative(a, b):
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("action", FORMATS)
@pytest.mark.parametrize(("features", "columns"), [(1, 1), (37, 11), (130, 3), (384, 7), (515, 5)])
def test_the_effective_weight_is_near_the_weight(action, features, columns):
    weight, bias, x = layer(features, columns, 2 * features + 3)
    prepared = prepare(action, weight, bias, x)
    assert effective_weight(prepared).shape == weight.shape
    assert relative(effective_weight(prepared), weight) < WEIGHT_ERROR[action] * 1.5
    assert (prepared.in_features, prepared.out_features) == (features, columns)


def test_four_bits_take_the_asymmetric_form_where_it_is_better():
    weight, _, _ = layer(64, 5, 1)
    one_sided = prepare("int4_weight", np.abs(weight))
    assert "weight_zero" in one_sided.tensors
    assert zero_points(one_sided).max() == 0
    assert relative(effective_weight(one_sided), np.abs(weight)) < 0.08
    grid = np.random.default_rng(1).integers(-8, 8, (64, 5)).astype(np.float32)
    grid[::32] = -8
    assert "weight_zero" not in prepare("int4_weight", grid / 10).tensors


def test_the_bias_takes_up_the_mean_error():
    weight, bias, x = layer(61, 9, 300)
    x += 3
    plain, corrected = prepare("int4_weight", weight, bias), prepare("int4_weight", weight, bias, x)
    assert np.array_equal(plain.tensors["bias"], bias)
    error = x @ effective_weight(corrected) + corrected.tensors["bias"] - (x @ weight + bias)
    assert np.abs(error.mean(axis=0)).max() < 1e-3


def test_narrow_codes_fit_seven_bits():
    weight, _, x = layer(33, 5, 70)
    assert np.abs(prepare("int8_static", weight, None, x, narrow=True).tensors["weight"]).max() <= 63
    assert np.abs(prepare("int8_static", weight, None, x).tensors["weight"]).max() == 127


def test_outlier_channels_are_migrated_and_plain_inputs_are_not():
    weight, _, x = layer(96, 13, 500)
    assert prepare("int8_static", weight, None, x).scalars["migrated"] == 0
    x[:, 5] *= 30
    moved = prepare("int8_static", weight, None, x)
    assert moved.scalars["migrated"] == 1
    assert moved.tensors["input_scale"][5] == 0.25
    assert relative(effective_weight(moved), weight) < 0.03


@pytest.mark.parametrize("action", FORMATS)
def test_a_group_shares_its_input_and_merges_to_its_columns(action):
    weights = [layer(45, columns, 1, seed)[0] for seed, columns in enumerate((7, 3, 5))]
    biases = [None, np.ones(3, np.float32), None]
    x = layer(45, 1, 200)[2]
    x[:, 2] *= 20
    group = prepare_group(action, weights, biases, x)
    assert all(part.scalars == group[0].scalars for part in group)
    merged = merge(group)
    assert merged.action == f"{action}_merged"
    assert merged.base == action
    assert merged.tensors["splits"].tolist() == [7, 3, 5]
    wide = np.concatenate([effective_weight(part) for part in group], axis=1)
    assert np.array_equal(effective_weight(merged), wide)
    assert np.array_equal(merged.tensors["bias"], np.concatenate([part.tensors["bias"] for part in group]))


def test_layers_of_different_inputs_do_not_merge():
    weight, _, x = layer(21, 4, 60)
    with pytest.raises(InputError, match="prepared together"):
        merge([prepare("int8_static", weight, None, x), prepare("int8_static", weight, None, 2 * x)])


@pytest.mark.parametrize("action", FORMATS)
def test_zero_columns_and_zero_inputs_give_no_nan(action):
    weight, bias, x = layer(40, 6, 50)
    weight[:, 2] = 0
    weight[:, 3] = 1e-42
    for inputs in (x, np.zeros_like(x)):
        with np.errstate(divide="raise", invalid="raise", over="raise"):
            prepared = prepare(action, weight, bias, inputs)
        assert all(np.isfinite(tensor).all() for tensor in prepared.tensors.values())
        assert not effective_weight(prepared)[:, 2].any()
    assert not effective_weight(prepare(action, np.zeros((5, 3), np.float32), None, x[:, :5])).any()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(FORMATS), st.integers(1, 150), st.integers(1, 12), st.integers(0, 2**31), st.floats(1e-3, 1e3))
def test_any_size_keeps_the_weight(action, features, columns, seed, size):
    weight, _, x = layer(features, columns, 20, seed)
    prepared = prepare(action, weight * np.float32(size), None, x if action in CALIBRATED else None)
    assert relative(effective_weight(prepared), weight * size) < 0.2
    blocks = prepared.tensors["weight"].shape
    assert blocks[0] == (features if action in INTEGER_INPUTS else columns)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("int3", np.ones((2, 2), np.float32)), "no number format 'int3'"),
        (("int8_static", np.ones((2, 2), np.float32)), "needs calibration inputs"),
        (("int8_weight", np.ones((2, 2, 2), np.float32)), r"must be \[2, N\]"),
        (("int8_weight", np.ones((2, 3), np.float32), np.ones(2, np.float32)), "must have 3 values"),
        (("int8_weight", np.full((2, 3), np.nan, np.float32)), "not finite"),
        (("int8_weight", np.ones((2, 3), np.float32), None, np.ones((4, 3), np.float32)), r"must be \[M, 2\]"),
        (("int8_weight", np.ones((2, 3), np.float32), None, np.full((4, 2), np.inf, np.float32)), "no input range"),
    ],
)
def test_bad_input_is_named(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        prepare(*arguments)
