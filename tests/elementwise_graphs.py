"""Convolutions with adds, Gelus and means between them, for the tests of what runs on codes."""

import numpy as np

from .onnx_graphs import graph

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
