"""Maxima and channels side by side stay in codes, and nothing behind them moves by a bit."""

import numpy as np
import pytest

from szilard.passes.find import find
from szilard.passes.onnx_coded_parts import CodedParts
from szilard.passes.onnx_quantize_conv import QuantizeConvs
from szilard.rewriter.backend import groups_of
from szilard.rewriter.backend_onnx import OnnxBackend
from szilard.rewriter.score_coded import score_coded

from .onnx_graphs import apply, choose, graph, kinds, run

KINDS = ("NhwcMaxPool", "QLinearConcat", "MaxPool", "Concat", "QuantizeLinear", "DequantizeLinear")
WIDTHS = {"w0": (5, 3), "w1": (7, 5), "w2": (4, 17), "w3": (4, 5)}
# 3 channels -> b of 5 -> pooled and convolved, put side by side twice -> pooled -> 4 channels.
STEM = """(float[2,3,SIZE] x) => (float[2,4,OUT] y) {
    b = Conv(x, w0)
    p = MaxPool<POOL>(b)
    c = Conv<SPREAD>(b, w1)
    d = Concat<axis = AXIS>(p, c, p)
    q = MaxPool<kernel_shape = [TWOS]>(d)
    y = Conv(q, w2)
}"""
POOLED = """(float[2,3,9,8] x) => (float[2,4,4,3] y) {
    a = Conv(x, w0)
    p = MaxPool<kernel_shape = [3, 3], strides = [2, 2]>(a)
    y = Conv(p, w3)
}"""


def case(text: str, space: tuple[int, ...]):
    """(model, its convolutions, what each becomes, samples)."""
    random = np.random.default_rng(0)
    kernels = {name: (3,) * len(space) if name == "w1" else (1,) * len(space) for name in WIDTHS}
    weights = {
        name: random.standard_normal((*shape, *kernels[name])).astype(np.float32)
        for name, shape in WIDTHS.items()
        if name in text
    }
    model = graph(text, weights)
    samples = [{"x": random.standard_normal((2, 3, *space)).astype(np.float32)} for _ in range(3)]
    backend = OnnxBackend(samples[0])
    net = backend.view(model, {"x": (2, 3, *space)})
    sites = find(net).sites
    values = list(dict.fromkeys(site.x for site in sites))
    written = list(dict.fromkeys([*(site.result for site in sites), *(value for value in values if value != "x")]))
    with backend.probe(model, [*values, *written], written) as probe:
        scores = score_coded(groups_of(sites), values, net, probe, samples)
    return model, sites, {site: made for score in scores.values() for site, made in score.prepared.items()}, samples


def on_codes(model, sites, made, chosen=None):
    choices = [choose("int8_conv", site) for site in (sites if chosen is None else chosen)]
    return apply(QuantizeConvs(made), model, choices, sites)[0]


def counts(model):
    return [kinds(model).count(kind) for kind in KINDS]


def assert_equal_on_floats(model, sites, made, samples, monkeypatch):
    """Gives the same numbers as with the ops between convolutions on floats."""
    coded = on_codes(model, sites, made)
    with monkeypatch.context() as patch:
        patch.setattr(CodedParts, "joined", lambda *_: None)
        floats = on_codes(model, sites, made)
    assert {"MaxPool"} <= set(kinds(floats))
    assert not {"NhwcMaxPool", "QLinearConcat"} & set(kinds(floats))
    for sample in samples:
        (found,), (wanted,) = run(coded, sample), run(floats, sample)
        np.testing.assert_array_equal(found, wanted)
        assert np.ptp(found) > 0


@pytest.mark.parametrize("space", [(9,), (9, 8)])
@pytest.mark.parametrize(
    ("pool", "conv"),
    [
        ("strides = [ONES], kernel_shape = [THREES], pads = [PADS]", "pads = [PADS]"),
        ('kernel_shape = [THREES], auto_pad = "SAME_UPPER"', "pads = [PADS]"),
        ("strides = [TWOS], kernel_shape = [THREES], pads = [PADS]", "pads = [PADS], strides = [TWOS]"),
        ("kernel_shape = [TWOS], dilations = [TWOS], pads = [PADS]", "pads = [PADS]"),
    ],
)
def test_what_a_convolution_reads_is_the_same_to_the_bit(space, pool, conv, monkeypatch):
    spread = len(space)
    text = STEM.replace("POOL", pool).replace("SPREAD", conv).replace("AXIS", "1" if spread == 2 else "-2")
    for word, number in (("ONES", "1"), ("TWOS", "2"), ("THREES", "3"), ("SIZE", None), ("OUT", None), ("PADS", "1")):
        many = 2 * spread if word == "PADS" else spread
        text = text.replace(
            word, ", ".join([number] * many if number else [str(n) for n in space] if word == "SIZE" else "ab"[:many])
        )
    model, sites, made, samples = case(text, space)
    assert len(sites) == 3
    assert counts(on_codes(model, sites, made)) == [4, 1, 0, 0, 1, 1]
    assert made[sites[0].id].y.zero > 0
    assert_equal_on_floats(model, sites, made, samples, monkeypatch)


def test_a_pool_alone_is_read_in_the_codes_of_its_reader(monkeypatch):
    model, sites, made, samples = case(POOLED, (9, 8))
    assert made[sites[0].id].y != made[sites[1].id].x
    assert counts(on_codes(model, sites, made)) == [1, 1, 0, 0, 1, 1]
    assert_equal_on_floats(model, sites, made, samples, monkeypatch)


def test_two_readers_share_what_they_read(monkeypatch):
    text = POOLED.replace("y = Conv(p, w3)", "m = Conv(p, w3)\n n = Conv(p, w3)\n y = Add(m, n)")
    model, sites, made, samples = case(text, (9, 8))
    assert counts(on_codes(model, sites, made)) == [1, 1, 0, 0, 1, 2]
    assert_equal_on_floats(model, sites, made, samples, monkeypatch)


@pytest.mark.parametrize(
    "text",
    [
        POOLED.replace("y = Conv(p, w3)", "r = Relu(p)\n m = Conv(p, w3)\n s = ReduceMax<keepdims = 1>(r)\n y = Add(m, s)"),
        POOLED.replace("y)", "y, float[2,5,4,3] p)"),
        POOLED.replace("strides", "ceil_mode = 1, pads = [0, 0, 1, 1], strides"),
        POOLED.replace("MaxPool", "AveragePool"),
        POOLED.replace("y = Conv(p", "d = Concat<axis = 2>(p, p)\n y = Conv(d").replace("4,4,3", "4,8,3"),
    ],
    ids=["read by floats", "an output", "windows of padding", "means", "side by side in space"],
)
def test_other_ops_and_what_is_read_as_floats_stay_floats(text):
    model, sites, made, _ = case(text, (9, 8))
    found = counts(on_codes(model, sites, made))
    assert found[:2] == [0, 0]
    assert found[4] == 2


def test_a_float_among_them_leaves_them_floats():
    text = STEM.replace("POOL", "kernel_shape = [1, 1]").replace("SPREAD", "pads = [1, 1, 1, 1]").replace("AXIS", "1")
    text = text.replace("SIZE", "9, 8").replace("OUT", "a, b").replace("TWOS", "2, 2")
    model, sites, made, _ = case(text, (9, 8))
    assert counts(on_codes(model, sites, made, [sites[0], sites[2]]))[:4] == [0, 0, 2, 1]
