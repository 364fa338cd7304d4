"""Tests of benchmarks/attention_causal.py on a tiny random language model; nothing here asserts a time."""

import pytest
import torch

from szilard.benchmarks.attention_causal import (
    Kept,
    head_errors,
    judge,
    mean_density,
    mean_errors,
    operands_of,
    seconds,
    within,
)
from szilard.benchmarks.causal_forms import BODY, DENSE, MODULE, SPECTRAL
from szilard.kernels.spectral_attention.causal_prepare import GRID, CausalPrepared

LENGTH, HEADS = 300, 4


@pytest.fixture(scope="module")
def model():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
    )
    found = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, weight in found.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                weight *= 20
    return found


@pytest.fixture(scope="module")
def ids():
    return torch.randint(50, (1, LENGTH), generator=torch.Generator().manual_seed(1))


def layers(budget):
    return [CausalPrepared((budget,) * HEADS, 0.25)] * 2


def test_dense_layers_leave_perplexity_as_it_is_and_sparse_ones_do_not(model, ids):
    exact, sparse = judge(model, ids, layers(None)), judge(model, ids, layers(2))
    assert exact["dense"] == pytest.approx(sparse["dense"], rel=1e-6)
    assert exact["rise_percent"] == pytest.approx(0, abs=1e-3)
    assert abs(sparse["rise_percent"]) > 0.01
    assert sparse["spectral"] == pytest.approx(sparse["dense"] * (1 + sparse["rise_percent"] / 100), rel=1e-5)


def test_budgets_keep_the_density(model, ids):
    errors = mean_errors([head_errors(model, ids), head_errors(model, ids.flip(1))])
    assert [set(layer) for layer in errors] == [set(GRID)] * 2
    tolerance, found = within(errors, 0.25, LENGTH, 0.6)
    assert 0.3 < mean_density(found, LENGTH) <= 0.6
    assert within(errors, 0.25, LENGTH, 0.5)[0] >= tolerance


def test_seconds_of_all_layers(model, ids):
    operands = operands_of(model, ids)
    assert [tuple(x.shape[1:]) for x in operands[0]] == [(HEADS, LENGTH, 16), (2, LENGTH, 16), (2, LENGTH, 16)]
    found = seconds(operands, layers(2), [*DENSE, *SPECTRAL], calls=1, threads=1, kept=Kept(None))
    assert set(found["seconds"]) == {*DENSE, *SPECTRAL}
    assert found["best_dense"] in DENSE
    assert found["best_spectral"] in (MODULE, BODY)
    assert found["speedup"] == pytest.approx(found["seconds"][found["best_dense"]] / found["seconds"][found["best_spectral"]])
    assert found["apart"] < 1e-4


def test_a_broken_run_goes_on(tmp_path):
    calls = []
    for _ in range(2):
        assert Kept(tmp_path / "new").result("a name", lambda x: calls.append(x) or [x], 3) == [3]
    assert calls == [3]
    for _ in range(2):
        assert Kept(tmp_path).tensors("t", lambda x: calls.append(x) or torch.tensor(x), 5).item() == 5
    assert calls == [3, 5]
    for _ in range(2):
        Kept(None).result("a name", calls.append, 4)
    assert calls == [3, 5, 4, 4]
