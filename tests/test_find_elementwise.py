"""Adds, Gelus and means between convolutions: which are found, and what looks like one and is none."""

import numpy as np
import pytest

from szilard.cost_model.sites import ElementwiseSite
from szilard.passes.find import find
from szilard.rewriter.backend_onnx import OnnxBackend

from .elementwise_graphs import FORMS, model_of, numbers
from .onnx_graphs import graph


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


def test_a_square_is_no_gelu():
    body = "d = Div(a, root) e = Erf(d) f = Add(e, one) g = Mul(f, f) z = Mul(g, half)"
    text = f"(float[2,3,9,7] x) => (float[2,6,9,7] z) {{ a = Conv(x, w0) {body} }}"
    net = OnnxBackend().view(graph(text, {"w0": np.ones((6, 3, 1, 1), np.float32), **numbers(text)}), {})
    assert len(find(net).sites) == 1


@pytest.mark.parametrize("form", FORMS)
def test_both_spellings_of_a_gelu_are_found(form):
    text = f"(float[2,3,9,7] v) => (float[2,6,9,7] y) {{ x = Conv(v, w0) {FORMS[form]} }}"
    model = graph(text, {"w0": np.ones((6, 3, 1, 1), np.float32), **numbers(text)})
    *_, site = find(OnnxBackend().view(model, {})).sites
    assert (site.function, site.reads, site.result, len(site.ops)) == ("gelu", ("x",), "y", 5)
    wrong = {name: np.array(number * 1.01, np.float32) for name, number in numbers(text).items()}
    assert len(find(OnnxBackend().view(graph(text, {"w0": np.ones((6, 3, 1, 1), np.float32), **wrong}), {})).sites) == 1
