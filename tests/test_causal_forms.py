"""Tests of benchmarks/causal_forms.py: its forms compute the same attention; nothing here asserts a time."""

import pytest
import torch

from szilard.benchmarks.causal_forms import DENSE, SPECTRAL, Layer, layer_seconds
from szilard.kernels.spectral_attention.causal_prepare import CausalPrepared

from .causal_attention import SMALL, operands
from .sparse_attention import relative


@pytest.fixture
def layer(tmp_path):
    query, key, value = operands(0, 1, (4, 2), 100, 16, 16)
    return Layer(tmp_path, (query, key, value), CausalPrepared((2, None, 4, 6), 0.4, SMALL), threads=1)


def outputs(layer, forms):
    found = []
    for form in forms:
        with layer.opened(form) as call:
            found.append(call().clone())
    return found


def test_dense_forms_and_spectral_forms_agree(layer):
    dense, spectral = outputs(layer, DENSE), outputs(layer, SPECTRAL)
    for each in dense[1:]:
        torch.testing.assert_close(each, dense[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(spectral[1], spectral[0], rtol=1e-3, atol=1e-4)
    assert 1e-3 < relative(spectral[0], dense[0]) < 0.5


def test_every_form_is_timed(layer):
    found = layer_seconds(layer, [*DENSE, *SPECTRAL], calls=2)
    assert set(found) == {*DENSE, *SPECTRAL}
    assert min(found.values()) > 0
