"""Maxima and channels side by side stay in codes, and nothing behind them moves by a bit."""

import numpy as np
import pytest

from szilard.passes import onnx_quantize_conv as module
from szilard.passes.find import find
from szilard.passes.onnx_quantize_conv import QuantizeConvs
from szilard.rewriter.backend import groups_of
from szilard.rewriter.backend_onnx import OnnxBackend
from szilard.rewriter.score_conv import score_convs

from .onnx_graphs import apply, choose, graph, kinds, run

TEXT = """(float[2,3,SIZE] x) => (float[2,4,OUT] y) {
    a = Conv(x, w0)
    b = Relu(a)
    p = MaxPool<POOL>(b)
    c = Conv<PADDED>(b, w1)
    d = Concat<axis = AXIS>(p, c)
    q = MaxPool<kernel_shape = [KERNEL]>(d)
    y = Conv(q, w2)
}"""


def prepared(model, samples):
    """The convolutions of a model of x, and what each becomes."""
    backend = OnnxBackend(samples[0])
    net = backend.view(model, {"x": samples[0]["x"].shape})
    sites = find(net).sites
    values = list(dict.fromkeys(site.x for site in sites))
    written = list(dict.fromkeys([*(site.result for site in sites), *(value for value in values if value != "x")]))
    with backend.probe(model, [*values, *written], written) as probe:
        scores = score_convs(groups_of(sites), values, net, probe, samples)
    return sites, {site: made for score in scores.values() for site, made in score.prepared.items()}


def case(rank: int, pool: str, axis: int = 1):
    """(model, sites, what each becomes, samples) of a model with `rank` - 2 axes of space."""
    spread = rank - 2
    size, pads = ", ".join(["9", "8"][:spread]), ", ".join(["1"] * 2 * spread)
    text = TEXT.replace("SIZE", size).replace("OUT", ", ".join("ab"[:spread])).replace("POOL", pool.replace("PADS", pads))
    text = text.replace("PADDED", f"pads = [{pads}]").replace("AXIS", str(axis)).replace("KERNEL", ", ".join(["2"] * spread))
    random = np.random.default_rng(0)
    shapes = {"w0": (5, 3, *[1] * spread), "w1": (7, 5, *[3] * spread), "w2": (4, 12, *[1] * spread)}
    model = graph(text, {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()})
    samples = [{"x": random.standard_normal((2, 3, *[9, 8][:spread])).astype(np.float32)} for _ in range(3)]
    return model, *prepared(model, samples), samples


def both(model, sites, made, samples, monkeypatch):
    """The model on codes, and what it computes with the ops between convolutions on codes and on floats."""
    choices = [choose("int8_conv", site) for site in sites]
    coded, _ = apply(QuantizeConvs(made), model, choices, sites)
    with monkeypatch.context() as patch:
        patch.setattr(module, "joined", lambda *_: None)
        floats, _ = apply(QuantizeConvs(made), model, choices, sites)
    return coded, floats, [[run(each, sample)[0] for sample in samples] for each in (coded, floats)]


@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize(
    "pool", ["strides = [S], kernel_shape = [K], pads = [PADS]", 'kernel_shape = [K], auto_pad = "SAME_UPPER"']
)
def test_what_a_convolution_reads_is_the_same_to_the_bit(rank, pool, monkeypatch):
    spread = rank - 2
    pool = pool.replace("[S]", str([1] * spread)).replace("[K]", str([3] * spread))
    model, sites, made, samples = case(rank, pool, axis=1 if rank == 4 else -2)
    coded, floats, (found, wanted) = both(model, sites, made, samples, monkeypatch)
    assert len(sites) == 3
    assert [kinds(coded).count(kind) for kind in ("QuantizeLinear", "DequantizeLinear", "QLinearConcat", "NhwcMaxPool")] == [
        1,
        1,
        1,
        3,
    ]
    assert not {"MaxPool", "Concat"} & set(kinds(coded))
    assert [kinds(floats).count(kind) for kind in ("QuantizeLinear", "MaxPool", "Concat", "QLinearConcat")] == [2, 2, 1, 0]
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(got, want)
        assert np.ptp(got) > 0


def test_with_floats_among_them_and_along_other_axes_they_stay_floats():
    model, sites, made, _ = case(4, "kernel_shape = [3, 3], pads = [PADS], strides = [1, 1]")
    choices = [choose("int8_conv", sites[0]), choose("int8_conv", sites[2])]
    some, _ = apply(QuantizeConvs(made), model, choices, sites)
    assert "QLinearConcat" not in kinds(some)
    assert {"MaxPool", "Concat"} <= set(kinds(some))
    text = """(float[1,3,6,6] x) => (float[1,4,12,6] y) {
        a = Conv(x, w0)
        b = Conv(x, w0)
        d = Concat<axis = 2>(a, b)
        y = Conv(d, w1)
    }"""
    random = np.random.default_rng(1)
    weights = {
        "w0": random.standard_normal((5, 3, 1, 1)).astype(np.float32),
        "w1": random.standard_normal((4, 5, 1, 1)).astype(np.float32),
    }
    model, sample = graph(text, weights), {"x": random.standard_normal((1, 3, 6, 6)).astype(np.float32)}
    sites, made = prepared(model, [sample])
    after, changed = apply(QuantizeConvs(made), model, [choose("int8_conv", site) for site in sites], sites)
    assert changed == 3
    assert "Concat" in kinds(after)
    assert "QLinearConcat" not in kinds(after)


def test_a_pool_alone_is_read_in_the_codes_of_its_reader(monkeypatch):
    text = """(float[2,3,9,8] x) => (float[2,4,4,3] y) {
        a = Conv(x, w0)
        p = MaxPool<kernel_shape = [3, 3], strides = [2, 2]>(a)
        y = Conv(p, w1)
    }"""
    random = np.random.default_rng(2)
    weights = {
        "w0": random.standard_normal((5, 3, 1, 1)).astype(np.float32),
        "w1": random.standard_normal((4, 5, 1, 1)).astype(np.float32),
    }
    model = graph(text, weights)
    samples = [{"x": random.standard_normal((2, 3, 9, 8)).astype(np.float32)} for _ in range(3)]
    sites, made = prepared(model, samples)
    assert made[sites[0].id].y != made[sites[1].id].x
    coded, _, (found, wanted) = both(model, sites, made, samples, monkeypatch)
    assert [kinds(coded).count(kind) for kind in ("NhwcMaxPool", "QLinearConcat", "MaxPool")] == [1, 1, 0]
    np.testing.assert_array_equal(found, wanted)
