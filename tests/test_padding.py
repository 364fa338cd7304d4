"""Padding counts in no error, and nothing is rounded on it: what stands there may be anything."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from szilard.cost_model.fisher import OwnOutputs
from szilard.passes.find import find
from szilard.rewriter import calibration_data
from szilard.rewriter.backend import groups_of
from szilard.rewriter.backend_torch import TorchBackend
from szilard.rewriter.calibration_data import relative_error
from szilard.rewriter.padding import kept_tokens, token_rows
from szilard.rewriter.score import score_linears
from szilard.rewriter.score_fisher import score_by_gradients
from szilard.rewriter.trace_torch import trace_module

MASK = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1]])
WIDTH = 24
# int8_dynamic has one range for a call, padding and all.
FORMATS = ("int4_weight", "int8_hilo", "int8_static", "int8_token", "int8_weight")


def test_one_mask_of_zeros_and_ones_tells_tokens_from_padding():
    words = np.ones((3, 5), np.int64)
    assert np.array_equal(kept_tokens({"input_ids": words, "attention_mask": MASK}), MASK == 1)
    assert np.array_equal(kept_tokens({"attention_mask": MASK.astype(np.float32)}), MASK == 1)
    for nothing in (
        {"input_ids": words},
        {"attention_mask": words},
        {"attention_mask": 0 * words},
        {"attention_mask": MASK[0]},
        {"attention_mask": -1e4 * (1 - MASK)},
        {"attention_mask": MASK, "decoder_input_ids": words},
        {"attention_mask": MASK, "encoder_hidden_states": words},
        {"encoder_attention_mask": MASK, "input_ids": words},
        {"global_attention_mask": MASK, "input_ids": words},
    ):
        assert kept_tokens(nothing) is None


def test_behind_caches_the_tokens_are_the_last_that_the_mask_speaks_of():
    sample = {"input_ids": np.ones((3, 2), np.int64), "attention_mask": MASK, "past_key_values.0.key": np.ones((3, 1, 3, 4))}
    assert np.array_equal(kept_tokens(sample), MASK[:, 3:] == 1)
    assert kept_tokens(sample | {"attention_mask": np.sort(MASK)}) is None


def test_rows_of_a_value_that_has_none_for_each_token_all_stay():
    kept = MASK == 1
    value = np.arange(30.0).reshape(3, 5, 2)
    assert np.array_equal(token_rows(value, kept), value[kept])
    assert np.array_equal(token_rows(value.reshape(15, 2), kept), value[kept])
    assert torch.equal(token_rows(torch.from_numpy(value), kept), torch.from_numpy(value[kept]))
    for other in (value[:, 0], value.transpose(1, 0, 2), value.reshape(3, 1, 5, 2)):
        assert len(token_rows(other, kept)) == other.size // 2
    assert len(token_rows(value, None)) == 15


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 9), st.integers(1, 50), st.integers(0, 2**31))
def test_an_error_is_that_of_the_tokens_alone(batch, length, width, at_once, seed):
    random = np.random.default_rng(seed)
    mask = random.integers(0, 2, (batch, length))
    wanted, found = (random.standard_normal((batch, length, width)).astype(np.float32) for _ in range(2))
    kept = mask == 1 if mask.any() else mask == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration_data, "NUMBERS_AT_ONCE", at_once)
        error = relative_error([{"y": found}], [{"y": wanted}], [{"attention_mask": mask}])
        codes = relative_error([{"y": found > 0}], [{"y": wanted > 0}], [{"attention_mask": mask}])
    real = wanted[kept].astype(np.float64)
    assert error == pytest.approx(((found[kept] - real) ** 2).sum() / (real**2).sum(), rel=1e-9)
    assert codes == pytest.approx(np.mean((found > 0)[kept] != (wanted > 0)[kept]))


def test_vectors_of_a_text_and_caches_count_whole_and_no_number_is_lost_at_padding():
    samples = [{"attention_mask": MASK}]
    wanted, found = np.ones((3, 5)), np.ones((3, 5))
    found[0, 4] = 2
    assert relative_error([{"pooled": found}], [{"pooled": wanted}], samples) == pytest.approx(1 / 15)
    cached = {"present.0.key": wanted[..., None]}, {"present.0.key": found[..., None]}
    assert relative_error([cached[1]], [cached[0]], samples) == pytest.approx(1 / 15)
    tokens = wanted[..., None]
    assert relative_error([{"y": found[..., None]}], [{"y": tokens}], samples) == 0
    broken = np.where(found == 2, np.nan, 1.0)[..., None]
    assert relative_error([{"y": broken}], [{"y": tokens}], samples) == np.inf


def test_softmax_gradients_are_of_the_tokens_alone():
    logits, tokens = torch.randn(3, 5, 7), torch.from_numpy(MASK == 1)
    seed = OwnOutputs("softmax", tokens=[tokens])
    (slope,) = seed(0, (logits,))
    assert not slope[~tokens].any()
    assert slope[tokens].any(-1).all()
    assert seed.rows == int(MASK.sum())
    assert seed.squares == pytest.approx(float(logits[tokens].square().sum()), rel=1e-6)


class Masked(nn.Module):
    """Two linears of which the mask hides nothing, so that padding would count if it were not left out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(WIDTH, 40), nn.Linear(40, WIDTH)

    def forward(self, x: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.down(torch.relu(self.up(x))) + 0 * attention_mask[..., None]


@pytest.mark.parametrize("way", ["runs", "gradients"])
def test_scores_do_not_depend_on_what_stands_at_padding(way):
    random = np.random.default_rng(0)
    words = [random.standard_normal((3, 5, WIDTH)).astype(np.float32) for _ in range(4)]
    found = []
    for louder in (1, 20):
        data = [np.where(MASK[..., None] == 1, each, louder * each).astype(np.float32) for each in words]
        program = trace_module(Masked().eval(), {"x": torch.from_numpy(data[0]), "attention_mask": torch.from_numpy(MASK)})
        backend, graph = TorchBackend(program), program.graph
        backend.clean_up(graph)
        samples = [dict(zip(program.inputs, (each, MASK), strict=True)) for each in data]
        net = backend.view(graph, {name: array.shape for name, array in samples[0].items()})
        wanted = {group: FORMATS for group in groups_of(find(net).sites) if group.kind == "linear"}
        assert len(wanted) == 2
        if way == "runs":
            with backend.probe(graph, [], []) as probe:
                found.append(score_linears(wanted, net, probe, samples))
        else:
            found.append(
                score_by_gradients(
                    wanted, graph, net, program.inputs, program.outputs, samples[:2], rounding=samples[2:], memory=None
                )
            )
    quiet, loud = found
    assert quiet.keys() == loud.keys()
    assert len(quiet) == 10
    for key, score in quiet.items():
        assert 0 < score.error == pytest.approx(loud[key].error, rel=1e-4), key
