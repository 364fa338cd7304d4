"""Convolutions on codes in a model: values stay in codes between them and are converted once elsewhere. Covers conv_weights.py
and score_coded.py too."""

import numpy as np
import pytest

from szilard.cost_model.device import load_device
from szilard.cost_model.errors import InputError
from szilard.kernels.quantized_conv.codes import dequantize, quantize, value_codes
from szilard.kernels.quantized_conv.formats import prepare
from szilard.kernels.quantized_conv.reference import simulate
from szilard.passes.find import find
from szilard.passes.onnx_quantize_conv import QuantizeConvs, on_codes_alone
from szilard.rewriter.backend import groups_of
from szilard.rewriter.backend_onnx import OnnxBackend
from szilard.rewriter.calibration_data import relative_error
from szilard.rewriter.conv_weights import conv_geometry
from szilard.rewriter.score_coded import IN_CODES, score_coded

from .onnx_graphs import apply, choose, graph, kinds, run

TEXT = """(float[2,3,9,7] x) => (float[2,4,5,4] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, w0)
    b = Add(a, shift)
    c = Relu(b)
    d = Conv<group = 6, strides = [2, 2], pads = [1, 1, 1, 1]>(c, w1, b1)
    e = BatchNormalization<epsilon = 0.01>(d, g, beta, mean, var)
    f = Clip(e, low, high)
    h = Conv(f, w2)
    i = Conv(f, w3)
    y = Add(h, i)
}"""


def weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes = {"w0": (6, 3, 3, 3), "w1": (6, 1, 3, 3), "w2": (4, 6, 1, 1), "w3": (4, 6, 1, 1), "b1": (6,), "shift": (1, 6, 1, 1)}
    made = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    made |= {name: random.uniform(0.5, 1, 6).astype(np.float32) for name in ("g", "beta", "mean", "var")}
    return made | {"low": np.array(0, np.float32), "high": np.array(30, np.float32)}


def scored(opset: int = 18, **changed: np.ndarray):
    """(model, sites, scores, samples): every convolution and every value that one reads."""
    model, random = graph(TEXT, {**weights(), **changed}, opset=opset), np.random.default_rng(1)
    samples = [{"x": random.standard_normal((2, 3, 9, 7)).astype(np.float32)} for _ in range(6)]
    backend = OnnxBackend(samples[0])
    net = backend.view(model, {"x": (2, 3, 9, 7)})
    sites = find(net).sites
    groups = groups_of(sites)
    values = list(dict.fromkeys(site.x for site in sites))
    written = list(dict.fromkeys([*(site.result for site in sites), *(value for value in values if value != "x")]))
    with backend.probe(model, [*values, *written], written) as probe:
        return model, sites, score_coded(groups, values, net, probe, samples), samples


def prepared(scores) -> dict:
    return {site: made for score in scores.values() for site, made in score.prepared.items()}


def test_values_that_are_not_finite_refuse_what_touches_them_and_nothing_else():
    _, sites, scores, _ = scored(w3=np.full((4, 6, 1, 1), np.inf, np.float32))
    refused = {key for key, score in scores.items() if score.refusal}
    assert refused == {(site.id, "int8_conv") for site in sites if site.weight == "w3"}


@pytest.mark.parametrize("opset", [11, 18])
def test_values_stay_in_codes_from_one_convolution_to_the_next(opset):
    model, sites, scores, samples = scored(opset)
    assert [(site.activation != "", site.batch_norm != "", site.bias) for site in sites] == [
        (True, False, "shift"), (True, True, "b1"), (False, False, ""), (False, False, ""),
    ]  # fmt: skip
    after, changed = apply(QuantizeConvs(prepared(scores)), model, [choose("int8_conv", site) for site in sites], sites)
    assert changed == 4
    found = kinds(after)
    assert [found.count(kind) for kind in ("QLinearConv", "QuantizeLinear", "DequantizeLinear", "Add")] == [4, 1, 2, 1]
    assert not {"Conv", "Relu", "Clip", "BatchNormalization"} & set(found)
    read = {value.name for node in after.graph for value in node.inputs if value is not None}
    assert set(after.graph.initializers) <= read
    before, now = ([{"y": run(each, sample)[0]} for sample in samples] for each in (model, after))
    assert 0 < relative_error(now, before) < 1e-3


def test_the_graph_computes_what_the_reference_does():
    model, sites, scores, samples = scored()
    made = prepared(scores)
    after, _ = apply(QuantizeConvs(made), model, [choose("int8_conv", site) for site in sites], sites)
    first, second, *last = (made[site.id] for site in sites)
    codes = simulate(second, simulate(first, quantize(samples[0]["x"], first.x)))
    want = sum(dequantize(simulate(each, codes), each.y) for each in last)
    np.testing.assert_allclose(run(after, samples[0])[0], want, atol=1.01 * max(each.y.scale for each in last))


def test_what_is_left_in_floating_point_reads_and_is_read_through_one_conversion():
    model, sites, scores, samples = scored()
    chosen = [sites[0], sites[3]]
    after, _ = apply(QuantizeConvs(prepared(scores)), model, [choose("int8_conv", site) for site in chosen], sites)
    found = kinds(after)
    assert [found.count(kind) for kind in ("QLinearConv", "Conv", "QuantizeLinear", "DequantizeLinear")] == [2, 2, 2, 2]
    before, now = ([{"y": run(each, sample)[0]} for sample in samples] for each in (model, after))
    predicted = sum(scores[site.id, "int8_conv"].error + scores[site.x, IN_CODES].error for site in chosen)
    assert relative_error(now, before) == pytest.approx(predicted, rel=0.7)


def test_a_site_alone_takes_codes_and_gives_codes():
    model, sites, scores, _ = scored()
    backend = OnnxBackend()
    net = backend.view(model, {})
    (group,) = (group for group in groups_of(sites) if group.id == sites[1].id)
    micro = backend.extract(model, net, backend.footprint(group, net, load_device("cpu")))
    QuantizeConvs(prepared(scores)).apply(micro, [choose("int8_conv", sites[1])], {sites[1].id: sites[1]})
    alone = on_codes_alone(micro)
    assert kinds(alone) == ["QLinearConv"]
    codes = np.random.default_rng(0).integers(0, 256, (2, 9, 7, 6), np.uint8)
    (got,) = run(alone, {alone.graph.inputs[0].name: codes})
    want = simulate(prepared(scores)[sites[1].id], codes.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    assert np.abs(got.astype(int) - want).max() <= 1


def test_a_site_without_weights_is_refused():
    model, sites, _, _ = scored()
    with pytest.raises(InputError, match="was not prepared"):
        QuantizeConvs({}).apply(model, [choose("int8_conv", sites[0])], {sites[0].id: sites[0]})


@pytest.mark.parametrize("way", ["SAME_UPPER", "SAME_LOWER"])
def test_padding_that_follows_from_the_size_does_so_at_other_sizes(way):
    """From 8 rows no row of zeros is needed above or below that 9 need on either side."""
    random, text = np.random.default_rng(2), f'y = Conv<auto_pad = "{way}", strides = [2, 2]>(x, w)'
    weight = random.standard_normal((4, 3, 3, 3)).astype(np.float32)
    model = graph(f"(float[2,3,H,7] x) => (float[2,4,P,4] y) {{ {text} }}", {"w": weight})
    net = OnnxBackend().view(model, {"x": (2, 3, 8, 7)})
    (site,) = find(net).sites
    seen, other = (random.standard_normal((2, 3, rows, 7)).astype(np.float32) for rows in (8, 9))
    codes = [value_codes(found) for found in ([seen, other], [*run(model, {"x": seen}), *run(model, {"x": other})])]
    made = prepare(weight, None, conv_geometry(net, site), *codes)
    after, _ = apply(QuantizeConvs({site.id: made}), model, [choose("int8_conv", site)], [site])
    for x in (seen, other):
        (wanted,), (found,) = run(model, {"x": x}), run(after, {"x": x})
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, atol=0.03 * np.abs(wanted).max())
