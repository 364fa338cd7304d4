"""Shapes of traced decoders, and energy decompositions whose work is what torch counts in real steps and real training."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from szilard.cost_model.decode import cache_bytes
from szilard.cost_model.device import load_device
from szilard.cost_model.price import price_net
from szilard.cost_model.transformer import (
    DecoderShape,
    TrainingRun,
    attention_flops,
    decoder_shape,
    inference_energy,
    printed_inference_energy,
    printed_training_energy,
    training_energy,
    weight_bytes,
)

from . import tiny_decoder
from .nets import NetBuilder
from .test_decode import at, decoding, found


def shape() -> DecoderShape:
    return decoder_shape(decoding("by_hand", 1, 33), at(found("by_hand"), 34))


def test_the_shape_of_a_traced_model_is_that_of_its_source():
    model = tiny_decoder.TinyDecoder("by_hand")
    numbers = sum(parameter.numel() for parameter in model.parameters())
    norms = sum(p.numel() for p in model.parameters() if p.dim() == 1)
    expected = DecoderShape(2, 40, 6, 2, 10, 61, numbers, numbers - norms - model.embed.weight.numel())
    assert shape().multiplied == expected.multiplied
    # The trace holds a few numbers more: the scale and the fill of the mask.
    assert 0 <= shape().parameters - expected.parameters < 10
    assert shape() == DecoderShape(2, 40, 6, 2, 10, 61, shape().parameters, expected.multiplied)
    held = sum(parameter.nbytes for parameter in model.parameters())
    assert held <= weight_bytes(decoding("by_hand", 1, 33), at(found("by_hand"), 34)) < held + 100


def test_tied_tables_are_held_once():
    build = NetBuilder()
    table = np.ones((7, 4), np.float32)
    first, second = build.constant("embed", table), build.constant("head", table)
    x = build.op("gather", first, build.input("ids", 3, dtype="int64"), shape=(3, 4))
    net = build.net(build.matmul(x, second, transpose_b=True))
    assert weight_bytes(net, ()) == table.nbytes


@pytest.mark.parametrize("context", [1, 33])
def test_the_flops_of_a_token_are_those_torch_counts(context):
    """Flops cost one joule each and bytes nothing."""
    flops, _ = tiny_decoder.counted_step(1, context)
    terms = inference_energy(shape(), 0.0, 0.0, context + 1, 1, flop=1.0, byte=0.0)
    assert sum(terms.values()) == flops


def test_the_bytes_of_a_token_are_its_share_of_the_weights_and_its_cache():
    _, held = tiny_decoder.counted_step(8, 33)
    weights = float(sum(p.nbytes for p in tiny_decoder.TinyDecoder("by_hand").parameters()))
    terms = inference_energy(shape(), weights, cache_bytes(at(found("by_hand"), 34)), 34, 8, flop=0.0, byte=1.0)
    assert 8 * sum(terms.values()) == weights + held


def test_the_decomposition_follows_the_priced_graph():
    """Terms that both have agree: products in the arithmetic term, weights and caches in the memory term of the priced net."""
    device = load_device("h100")
    net, caches = decoding("by_hand", 8, 33), at(found("by_hand"), 34)
    priced = price_net(net, device).total.terms
    byte, flop = device.values["byte.memory"], device.values["flop.float32"]
    terms = inference_energy(shape(), weight_bytes(net, caches), cache_bytes(caches), 34, 8, flop, byte)
    assert 8 * (terms["weights"] + terms["cache"]) == pytest.approx(priced["memory"], rel=0.1)
    assert 0.8 < 8 * (terms["arithmetic"] + terms["attention"]) / priced["arithmetic"] < 1.0


def test_the_flops_of_training_are_those_torch_counts_forward_and_back():
    batch, length = 3, 17
    model = tiny_decoder.TinyDecoder("by_hand")
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(batch, length, dtype=torch.int64)).sum().backward()
    run = TrainingRun(tokens=batch * length, sequence=length, batch=batch, causal=False)
    terms = training_energy(shape(), run, flop=1.0, byte=0.0, link=0.0)
    assert terms["arithmetic"] + terms["attention"] == counter.get_total_flops()


def test_a_causal_run_counts_the_pairs_that_attend():
    length = 17
    pairs = int(np.tri(length).sum())
    run = TrainingRun(tokens=length, sequence=length, batch=1)
    assert training_energy(shape(), run, 1.0, 0.0, 0.0)["attention"] == 3 * pairs * attention_flops(shape(), 1, 1)


@pytest.mark.parametrize(("windows", "length"), [((), 17), ((5, 40), 17), ((5, 1, 17), 17), ((3,), 2)])
def test_layers_with_windows_count_the_pairs_within_them(windows, length):
    run = TrainingRun(tokens=length, sequence=length, batch=1, windows=windows)
    behind = np.subtract.outer(np.arange(length), np.arange(length))
    pairs = [int(((behind >= 0) & (behind < window)).sum()) for window in windows or (length,)]
    assert run.keys == pytest.approx(np.mean(pairs) / length)
    assert TrainingRun(length, length, 1, causal=False, windows=windows).keys == length


def test_checkpoints_and_gradients_are_counted_step_by_step():
    run = TrainingRun(1000, 10, 4, replicas=3, checkpoint_interval=10, state_bytes=7.0, gradient_bytes=5.0)
    written = sent = 0.0
    for step in range(run.steps):
        written += run.state_bytes if step % run.checkpoint_interval == 0 else 0.0
        # A ring: every replica sends a third of the gradients four times, twice to sum and twice to spread.
        sent += sum(run.gradient_bytes / run.replicas for _ in range(run.replicas) for _ in range(2 * (run.replicas - 1)))
    terms = training_energy(shape(), run, flop=0.0, byte=2.0, link=3.0)
    assert terms["checkpoint"] == 2.0 * written
    assert terms["communication"] == pytest.approx(3.0 * sent)


def test_the_printed_forms_are_as_printed():
    printed = printed_inference_energy(7.0, 5, 3, flop=0.5, byte=2.0, cache=4.0)
    assert printed == {"weights": 2.0 * 7, "arithmetic": 0.5 * 2 * 7, "cache": 4.0 * 2 * 5 * 3}
    a = DecoderShape(2, 8, 4, 4, 2, 0, 0.0, 0.0)
    trained = printed_training_energy(a, 7.0, 10.0, 6, 5.0, 3.0, flop=1.0, byte=1.0)
    assert trained == {"arithmetic": 6 * 7 * 10.0, "attention": 4 * 2 * 4 * 6**2 * 8 * 10 / 5, "checkpoint": 7.0 * 4}
