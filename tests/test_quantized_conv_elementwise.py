"""Adds, Gelus and means between convolutions on codes: what is found, and that graphs compute what the reference does.

Covers find_elementwise.py too."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from scipy.special import erf

from szilard.cost_model.device import load_device
from szilard.cost_model.onnx_style import OnnxStyle
from szilard.cost_model.sites import CodedSite, ConvSite, ElementwiseSite
from szilard.kernels.quantized_conv import elementwise
from szilard.kernels.quantized_conv.codes import Codes, dequantize, quantize
from szilard.kernels.quantized_conv.elementwise import ACTIONS, PreparedElementwise, gelu, prepare_gelu
from szilard.kernels.quantized_conv.formats import ACTION
from szilard.kernels.quantized_conv.reference import simulate
from szilard.passes.find import find
from szilard.passes.onnx_quantize_conv import ON_CODES, QuantizeConvs
from szilard.rewriter.backend import groups_of
from szilard.rewriter.backend_onnx import OnnxBackend
from szilard.rewriter.calibration_data import relative_error
from szilard.rewriter.candidates import candidate
from szilard.rewriter.score_coded import score_coded

from .onnx_graphs import apply, choose, graph, kinds, run

NUMBERS = {"root": 2**0.5, "back": 0.5**0.5, "one": 1.0, "half": 0.5, "low": 0.0, "high": 2.0}
FORMS = {
    "last": "d = Div(x, root)  e = Erf(d)  f = Add(e, one)  g = Mul(x, f)  y = Mul(g, half)",
    "first": "d = Mul(x, back)  e = Erf(d)  f = Add(one, e)  h = Mul(half, x)  y = Mul(h, f)",
}
# 3 channels -> a of 6, its Gelu, a residual with a clip behind it, another without, a convolution and the means of what it writes.
TEXT = """(float[2,3,9,7] x) => (float[2,6,1,1] y, float[2,5] z) {
    a = Conv(x, w0)
    d = Div(a, root)  e = Erf(d)  f = Add(e, one)  g = Mul(a, f)  h = Mul(g, half)
    b = Conv(h, w1)
    r = Add(b, a)
    s = Clip(r, low, high)
    c = Conv(s, w2)
    t = Add(s, c)
    u = Conv(t, w3)
    y = GlobalAveragePool(t)
    z = ReduceMean<keepdims = 0>(u, axes)
}"""


def numbers(text):
    return {name: np.array(number, np.float32) for name, number in NUMBERS.items() if name in text}


def model_of(text=TEXT, opset=18):
    random = np.random.default_rng(0)
    shapes = {"w0": (6, 3, 1, 1), "w1": (6, 6, 1, 1), "w2": (6, 6, 1, 1), "w3": (5, 6, 1, 1)}
    weights = {name: random.standard_normal(shape).astype(np.float32) / 2 for name, shape in shapes.items() if name in text}
    axes = {"axes": np.array([2, 3], np.int64)} if "axes" in text else {}
    return graph(text, {**weights, **numbers(text), **axes}, opset=opset)


def scored(model, rows=9):
    """(sites, prepared, scores, samples): every site that can run on codes, and every value that one reads."""
    random = np.random.default_rng(1)
    samples = [{"x": random.standard_normal((2, 3, rows, 7)).astype(np.float32)} for _ in range(6)]
    backend = OnnxBackend(samples[0])
    net = backend.view(model, {"x": (2, 3, rows, 7)})
    sites = find(net).sites
    assert all(isinstance(site, CodedSite) for site in sites)
    read = list(dict.fromkeys(value for site in sites for value in site.reads))
    written = list(dict.fromkeys([*(site.result for site in sites), *(value for value in read if value != "x")]))
    with backend.probe(model, [*read, *written], written) as probe:
        scores = score_coded(groups_of(sites), read, net, probe, samples)
    return sites, {site: made for score in scores.values() for site, made in score.prepared.items()}, scores, samples


def outputs(model, sample):
    return dict(zip("yz", run(model, sample), strict=True))


def action_of(site):
    return ACTION if isinstance(site, ConvSite) else ACTIONS[site.function]


def on_codes(model, sites, made, style=OnnxStyle.runtime):
    return apply(QuantizeConvs(made, style), model, [choose(action_of(site), site) for site in sites], sites)[0]


def expected(sites, made, x):
    """Value -> its codes [B, C, *], worked out site by site by the references."""
    held = {"x": quantize(x, made[sites[0].id].x)}
    for site in sorted(sites, key=lambda site: int(site.ops[0][1:])):
        part, codes = made[site.id], [held[value] for value in site.reads]
        held[site.result] = simulate(part, codes[0]) if isinstance(site, ConvSite) else elementwise.simulate(part, *codes)
    return held


def test_what_is_found_between_convolutions():
    sites = find(OnnxBackend().view(model_of(), {})).sites
    found = [(s.function, s.reads, s.output, s.activation, s.result, s.high) for s in sites if isinstance(s, ElementwiseSite)]
    assert found == [
        ("gelu", ("a",), "h", "", "h", np.inf),
        ("add", ("b", "a"), "r", "n8", "s", 2.0),
        ("add", ("s", "c"), "t", "", "t", np.inf),
        ("mean", ("t",), "y", "", "y", np.inf),
        ("mean", ("u",), "z", "", "z", np.inf),
    ]


@pytest.mark.parametrize(
    "body",
    [
        "a = Conv(x, w0) y = Add(a, a) z = Conv(y, w1)",  # one value twice
        "a = Conv(x, w0) b = Add(a, one) z = Conv(b, w1)",  # a constant
        "a = Conv(x, w0) b = Conv(a, w1) z = Add(a, b)",  # no convolution reads it
        "a = Conv(x, w0) b = GlobalAveragePool(a) c = Add(a, b) z = Conv(c, w1)",  # shapes that broadcast
        "b = Exp(x) c = Add(x, b) z = Conv(c, w0)",  # no convolution wrote either
        "a = Conv(x, w0) b = ReduceMean(a, one_axis) z = Add(a, b)",  # the mean of one axis
        "a = Conv(x, w0) " + FORMS["last"].replace("x", "a").replace("one)", "half)").replace("y =", "z ="),  # no Gelu
    ],
)
def test_what_is_not(body):
    text = f"(float[2,3,9,7] x) => (float[2,6,9,7] z) {{ {body} }}"
    weights = {"w0": np.ones((6, 3, 1, 1), np.float32), "w1": np.ones((6, 6, 1, 1), np.float32), "one_axis": np.array([3])}
    net = OnnxBackend().view(graph(text, {name: w for name, w in weights.items() if name in text} | numbers(text)), {})
    sites = [site for site in find(net).sites if isinstance(site, ElementwiseSite)]
    assert [site.function for site in sites] == (["mean"] if "GlobalAveragePool" in body else [])


@pytest.mark.parametrize("form", FORMS)
def test_both_spellings_of_a_gelu_are_found(form):
    text = f"(float[2,3,9,7] v) => (float[2,6,9,7] y) {{ x = Conv(v, w0) {FORMS[form]} }}"
    model = graph(text, {"w0": np.ones((6, 3, 1, 1), np.float32), **numbers(text)})
    *_, site = find(OnnxBackend().view(model, {})).sites
    assert (site.function, site.reads, site.result, len(site.ops)) == ("gelu", ("x",), "y", 5)
    wrong = {name: np.array(number * 1.01, np.float32) for name, number in numbers(text).items()}
    assert len(find(OnnxBackend().view(graph(text, {"w0": np.ones((6, 3, 1, 1), np.float32), **wrong}), {})).sites) == 1


def test_the_graph_computes_what_the_references_do():
    model = model_of()
    sites, made, scores, samples = scored(model)
    after = on_codes(model, sites, made)
    found = kinds(after)
    assert [found.count(kind) for kind in ("QLinearConv", "QLinearAdd", "QLinearSigmoid", "QLinearMul")] == [4, 2, 1, 1]
    assert [found.count(kind) for kind in ("QLinearGlobalAveragePool", "QuantizeLinear", "DequantizeLinear")] == [2, 1, 2]
    assert not {"Conv", "Add", "Clip", "Erf", "Mul", "Div", "ReduceMean", "GlobalAveragePool", "Gelu"} & set(found)
    for sample in samples:
        held = expected(sites, made, sample["x"])
        last = {site.result: made[site.id].y for site in sites}
        for name, got in zip("yz", run(after, sample), strict=True):
            # A code of an earlier value that lies between two may go either way.
            np.testing.assert_allclose(got, dequantize(held[name], last[name]), atol=3.01 * last[name].scale)
    before, now = ([outputs(each, sample) for sample in samples] for each in (model, after))
    predicted = sum(score.error for score in scores.values() if score.prepared) + scores["x", "codes"].error
    assert 0.2 * predicted < relative_error(now, before) < 3 * predicted < 0.05


def test_onnxruntimes_own_optimiser_changes_nothing():
    model = model_of()
    sites, made, _, samples = scored(model)
    after = on_codes(model, sites, made)
    session = onnxruntime.InferenceSession(ir.to_proto(after).SerializeToString(), providers=["CPUExecutionProvider"])
    for found, wanted in zip(session.run(None, samples[0]), run(after, samples[0]), strict=True):
        np.testing.assert_allclose(found, wanted, atol=0.05)


def test_standard_onnx_has_the_adds():
    model = model_of()
    sites, made, _, samples = scored(model)
    able = [site for site in sites if isinstance(site, ConvSite) or site.function == "add"]
    after = on_codes(model, able, made, OnnxStyle.qdq)
    assert {node.domain for node in after.graph} == {""}
    assert kinds(after).count("Add") == 3
    before, now = ([outputs(each, sample) for sample in samples] for each in (model, after))
    assert relative_error(now, before) < 0.01
    backend = OnnxBackend(samples[0], OnnxStyle.qdq)
    offered = [backend.actions(group, backend.view(model, {}), load_device("cpu")) for group in groups_of(sites)]
    refused = {action: reason for each in offered for action, reason in each.items() if reason}
    assert refused.keys() == {"int8_gelu", "int8_mean"}
    assert all("drop --onnx-style qdq" in reason for reason in refused.values())


def test_a_gelu_of_floats_behind_codes_is_one_op():
    model = model_of()
    sites, made, _, samples = scored(model)
    convs = [site for site in sites if isinstance(site, ConvSite)]
    after = QuantizeConvs(made)
    changed = model.clone()
    assert after.apply(changed, [choose(ACTION, site) for site in convs], {site.id: site for site in sites}) == 4
    assert kinds(changed).count("Gelu") == 1
    assert "Erf" not in kinds(changed)
    before, now = ([outputs(each, sample) for sample in samples] for each in (model, changed))
    assert relative_error(now, before) < 0.01


def test_each_alone_takes_codes_and_gives_codes():
    model = model_of()
    backend = OnnxBackend()
    net = backend.view(model, {})
    for group in groups_of(find(net).sites):
        (action,) = ON_CODES & backend.actions(group, net, load_device("cpu")).keys()
        micro = candidate(backend, model, net, group, action, load_device("cpu"))
        assert {value.dtype for value in (*micro.graph.inputs, *micro.graph.outputs)} == {ir.DataType.UINT8}, action
        assert all(node.op_type.startswith("QLinear") or node.op_type == "Reshape" for node in micro.graph), action


def test_on_cuda_each_is_refused_with_a_sentence():
    net = OnnxBackend().view(model_of(), {})
    for group in groups_of(find(net).sites):
        if isinstance(group.sites[0], ElementwiseSite):
            (reason,) = OnnxBackend().actions(group, net, load_device("h200")).values()
            assert "copy to the host" in reason


@pytest.mark.parametrize("spread", [0.3, 1.0, 4.0])
def test_the_slope_of_a_gelu_fits_where_its_inputs_lie(spread):
    x = np.random.default_rng(0).standard_normal(20000).astype(np.float32) * spread
    codes = Codes(float(2 * np.abs(x).max() / 255), 128)
    made = prepare_gelu([x], codes, codes)
    exact = x * (1 + erf(x / 2**0.5)) / 2

    def error(slope):
        return float(np.sum((gelu(x, slope) - exact) ** 2) / np.sum(exact**2))

    assert 1.5 < made.slope < 1.9
    assert error(made.slope) < 1e-3
    assert error(made.slope) <= 1.05 * min(error(slope) for slope in (1.55, 1.702, 1.85))


def test_a_saturated_sigmoid_is_one():
    """0 and 1 have codes of their own: a large x stays what it is."""
    np.testing.assert_array_equal(gelu(np.array([12.0, -12.0, 0.0], np.float32), 1.7), [12.0, 0.0, 0.0])


def test_the_reference_of_a_mean_and_of_a_sum():
    codes, y = Codes(0.5, 10), Codes(0.25, 3)
    x = np.array([[[[10, 12], [14, 16]]]], np.uint8)
    assert elementwise.simulate(PreparedElementwise("int8_mean", (codes,), y), x).tolist() == [[[[9]]]]
    assert elementwise.simulate(PreparedElementwise("int8_mean", (codes,), y, flat=True), x).tolist() == [[9]]
    total = elementwise.simulate(PreparedElementwise("int8_add", (codes, y), y), x, np.full_like(x, 7))
    assert total.tolist() == [[[[7, 11], [15, 19]]]]
