"""What stays in floating point between codes: onnxruntime's optimiser neither rounds its weights nor tears it apart."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from szilard.passes.find import find
from szilard.passes.onnx_between_codes import fuse_gelu, keep_float
from szilard.passes.onnx_pass import Surgeon
from szilard.rewriter.backend_onnx import OnnxBackend

from .elementwise_graphs import FORMS, numbers
from .onnx_graphs import assert_same, graph, kinds, run

NUMBERS = {"low": 0.0, "high": 2.0, "scale": 0.05}
BEHIND = {
    "alone": "y = Conv<PADS>(f, w)",
    "bias inside": "y = Conv<PADS>(f, w, b)",
    "bias behind": "c = Conv<PADS>(f, w) y = Add(c, shift)",
    "relu": "c = Conv<PADS>(f, w, b) y = Relu(c)",
    "clip": "c = Conv<PADS>(f, w, b) y = Clip(c, low, high)",
    "clip from below": "c = Conv<PADS>(f, w, b) y = Clip(c, low)",
    "bias and clip behind": "c = Conv<PADS>(f, w) d = Add(shift, c) y = Clip(d, low, high)",
}
Q = "q = QuantizeLinear(y, step, zero) z = DequantizeLinear(q, step, zero)"
GEOMETRY = "group = 6, strides = [2, 1], pads = [1, 0, 1, 2], dilations = [1, 2], kernel_shape = [3, 3]"


def between(body, opset=18, end=Q):
    """Codes -> floats -> `body` -> codes, with weights that one scale for all channels would spoil."""
    random = np.random.default_rng(0)
    weight = random.standard_normal((6, 1, 3, 3)).astype(np.float32) * np.geomspace(0.001, 3, 6, dtype=np.float32).reshape(
        -1, 1, 1, 1
    )
    held = {"w": weight, "b": random.standard_normal(6).astype(np.float32), "shift": np.ones((1, 6, 1, 1), np.float32)}
    held |= {name: np.array(number, np.float32) for name, number in NUMBERS.items()}
    held |= {"zero": np.array(128, np.uint8), "step": np.array(0.02, np.float32)}
    text = f"(uint8[2,6,9,7] x) => (float[A,B,C,D] z) {{ f = DequantizeLinear(x, scale, zero) {body.replace('PADS', GEOMETRY)} {end} }}"
    used = {name: array for name, array in held.items() if f"{name})" in text or f"{name}," in text.partition("=>")[2]}
    return graph(text, used, opset=opset)


def optimised(model, feeds):
    """What onnxruntime gives with all its optimisations."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def codes():
    return {"x": np.random.default_rng(1).integers(0, 256, (2, 6, 9, 7), np.uint8)}


@pytest.mark.parametrize("form", BEHIND)
def test_a_convolution_between_codes_keeps_its_weights(form):
    model = between(BEHIND[form])
    wanted = run(model, codes())[0]
    changed = model.clone()
    assert keep_float(Surgeon(changed)) == 1
    assert kinds(changed) == ["DequantizeLinear", "DequantizeLinear", "FusedConv", "QuantizeLinear"]
    assert_same(model, changed, codes())
    assert np.abs(optimised(changed, codes()) - wanted).max() < 0.021
    assert keep_float(Surgeon(changed)) == 0


def test_what_onnxruntime_would_make_of_it():
    """If this fails, the pass is no longer needed."""
    model = between(BEHIND["relu"])
    assert np.abs(optimised(model, codes()) - run(model, codes())[0]).max() > 0.03


@pytest.mark.parametrize(
    "body",
    [
        "c = Conv<PADS>(f, w, b) d = Relu(c) y = MaxPool<kernel_shape = [2, 2]>(d)",
        "m = MaxPool<kernel_shape = [2, 2]>(f) y = Conv<PADS>(m, w, b)",
        "c = Conv<PADS>(f, w, b) y = Transpose<perm = [0, 2, 3, 1]>(c)",
    ],
)
def test_onnxruntime_sees_codes_through_what_only_moves_values(body):
    model = between(body)
    wanted = run(model, codes())[0]
    assert np.abs(optimised(model, codes()) - wanted).max() > 0.03
    assert keep_float(Surgeon(model)) == 1
    assert np.abs(optimised(model, codes()) - wanted).max() < 0.021


@pytest.mark.parametrize(("shape", "taken"), [((6,), False), ((6, 1), False), ((6, 1, 1), True), ((1, 6, 1, 1), True)])
def test_only_an_add_to_each_channel_is_a_bias(shape, taken):
    """Six rows, six columns and six channels."""
    body = "c = Conv<kernel_shape = [1, 1]>(f, w) y = Add(c, shift)"
    random = np.random.default_rng(0)
    held = {
        "w": random.standard_normal((6, 6, 1, 1)).astype(np.float32),
        "shift": random.standard_normal(shape).astype(np.float32),
    }
    held |= {"scale": np.array(0.05, np.float32), "zero": np.array(128, np.uint8), "step": np.array(0.1, np.float32)}
    model = graph(f"(uint8[2,6,6,6] x) => (float[2,6,6,6] z) {{ f = DequantizeLinear(x, scale, zero) {body} {Q} }}", held)
    changed, feeds = model.clone(), {"x": random.integers(0, 256, (2, 6, 6, 6), np.uint8)}
    assert keep_float(Surgeon(changed)) == int(taken)
    assert_same(model, changed, feeds)


def test_weights_that_are_codes_already_are_let_be():
    random = np.random.default_rng(0)
    held = {"v": random.integers(-127, 128, (6, 6, 1, 1), np.int8), "scales": np.full(6, 0.01, np.float32)}
    held |= {"scale": np.array(0.05, np.float32), "zero": np.array(128, np.uint8), "step": np.array(0.1, np.float32)}
    body = "w = DequantizeLinear<axis = 0>(v, scales) y = Conv(f, w)"
    model = graph(f"(uint8[2,6,6,6] x) => (float[2,6,6,6] z) {{ f = DequantizeLinear(x, scale, zero) {body} {Q} }}", held)
    assert keep_float(Surgeon(model)) == 0


def test_a_bias_gets_a_name_of_its_own():
    model = between(BEHIND["bias behind"])
    model.graph.initializers["shift"].name = "n1.bias"
    assert keep_float(Surgeon(model)) == 1
    run(model, codes())


@pytest.mark.parametrize(
    ("body", "end"),
    [
        ("y = Conv<PADS>(f, w)", "z = Relu(y)"),
        ("c = Conv<PADS>(f, w) y = Tanh(c)", Q),
        ("e = Abs(f) y = Conv<PADS>(e, w)", Q),
    ],
)
def test_others_stay_as_they_are(body, end):
    model = between(body, end=end)
    assert keep_float(Surgeon(model)) == 0


@pytest.mark.parametrize("form", FORMS)
def test_five_ops_of_a_gelu_become_one(form):
    text = f"(float[2,3,5,1] v) => (float[2,3,5,1] y) {{ x = Conv(v, w) {FORMS[form]} }}"
    model = graph(text, {"w": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1), **numbers(text)})
    *_, site = find(OnnxBackend().view(model, {})).sites
    fused = model.clone()
    surgeon = Surgeon(fused)
    fuse_gelu(surgeon, site)
    surgeon.close()
    assert kinds(fused) == ["Conv", "Gelu"]
    assert_same(model, fused, {"v": np.linspace(-4, 4, 30, dtype=np.float32).reshape(2, 3, 5, 1)})
    fuse_gelu(Surgeon(fused), site)
    assert kinds(fused) == ["Conv", "Gelu"]
