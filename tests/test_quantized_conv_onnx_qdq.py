"""Convolutions between DequantizeLinear and QuantizeLinear: the nodes compute what the reference does, and values stay in codes between
them. Covers kernels/onnx_forms.py too."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.cost_model.cpu_features import products_saturate
from szilard.cost_model.device import load_device
from szilard.cost_model.onnx_style import OnnxStyle
from szilard.cost_model.sites import ConvSite
from szilard.kernels.onnx_forms import CONV
from szilard.kernels.quantized_conv.codes import dequantize, quantize, value_codes
from szilard.kernels.quantized_conv.formats import Geometry, prepare
from szilard.kernels.quantized_conv.reference import simulate
from szilard.passes.find import find
from szilard.passes.onnx_quantize_conv import QuantizeConvs, on_codes_alone
from szilard.rewriter.backend import groups_of
from szilard.rewriter.backend_onnx import OnnxBackend
from szilard.rewriter.calibration_data import relative_error

from .onnx_graphs import apply, choose, graph, kinds
from .standard_onnx_runs import WAYS, assert_standard, outputs
from .test_onnx_quantize_conv import prepared, scored
from .test_quantized_conv import cases, floats

FORM = CONV[OnnxStyle.qdq]


def model_of(made, shape, way: str) -> ir.Model:
    """Quantised, convolved on codes and made a float again, in the oldest operator set that can or that `way` runs."""
    value, rank = ir.Value(name="x", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT)), len(shape)
    first = FORM.quantize_nodes(value, made.x, rank, "q")
    middle = FORM.conv_nodes(made, first.output, "c", ir.Shape(["N", "C", *"PQ"[: rank - 2]]))
    nodes, y, more = FORM.dequantize_nodes(middle.output, rank, "d")
    graph = ir.Graph(
        [value], [y], nodes=[*first.nodes, *middle.nodes, *nodes], name="conv", opset_imports={"": 13 if way != "onnx" else 21},
        initializers=[*first.initializers, *middle.initializers, *more],
    )  # fmt: skip
    return ir.Model(graph, ir_version=8)


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=12, deadline=None)
@given(case=cases(), clipped=st.booleans())
def test_the_nodes_compute_what_the_reference_does(way, case, clipped):
    x, weight, bias, geometry = case
    y = floats(x, weight, bias, geometry).clip(0 if clipped else -np.inf, None)
    codes = value_codes([x]), value_codes([y])
    made = prepare(weight, bias, geometry, *codes, [x], narrow=products_saturate())
    (got,) = outputs(model_of(made, x.shape, way), {"x": x}, way)
    steps = np.abs(got - dequantize(simulate(made, quantize(x, made.x)), made.y)) / made.y.scale
    # Where a sum lies half way between two codes, the rounding of its floats may go either way.
    assert steps.max() < 1.01
    assert (steps > 0.5).mean() < 0.02
    assert not clipped or got.min() >= 0


def in_standard_onnx(opset: int = 21):
    model, sites, scores, samples = scored(opset)
    made = prepared(scores)
    choices = [choose("int8_conv", site) for site in sites]
    after, changed = apply(QuantizeConvs(made, OnnxStyle.qdq), model, choices, sites)
    assert changed == 4
    return model, after, sites, made, samples


def test_values_stay_in_codes_from_one_convolution_to_the_next():
    model, after, _, _, samples = in_standard_onnx()
    found = kinds(after)
    # The floats of 4 inputs, weights and biases, and of the two results that are added.
    assert [found.count(kind) for kind in ("Conv", "QuantizeLinear", "DequantizeLinear", "Add")] == [4, 5, 14, 1]
    assert not {"Relu", "Clip", "BatchNormalization", "Transpose"} & set(found)
    read = {value.name for node in after.graph for value in node.inputs if value is not None}
    assert set(after.graph.initializers) <= read
    before = [{"y": outputs(model, sample, "as written")[0]} for sample in samples]
    now = [{"y": outputs(after, sample, "as written")[0]} for sample in samples]
    assert 0 < relative_error(now, before) < 1e-3


@pytest.mark.parametrize("way", WAYS)
def test_the_graph_computes_what_the_reference_does(way):
    _, after, sites, made, samples = in_standard_onnx()
    first, second, *last = (made[site.id] for site in sites)
    codes = simulate(second, simulate(first, quantize(samples[0]["x"], first.x)))
    want = sum(dequantize(simulate(each, codes), each.y) for each in last)
    got = outputs(after, samples[0], way)[0]
    # A code of one convolution that goes the other way moves those behind it.
    assert np.abs(got - want).max() < 4 * max(each.y.scale for each in last)
    assert np.sum((got - want) ** 2) < 1e-4 * np.sum(want**2)


def test_a_site_alone_takes_codes_and_gives_codes():
    model, sites, scores, _ = scored()
    backend = OnnxBackend(style=OnnxStyle.qdq)
    (group,) = (group for group in groups_of(sites) if group.id == sites[1].id)
    net = backend.view(model, {})
    micro = backend.extract(model, net, backend.footprint(group, net, load_device("cpu")))
    made = prepared(scores)
    QuantizeConvs(made, OnnxStyle.qdq).apply(micro, [choose("int8_conv", sites[1])], {sites[1].id: sites[1]})
    alone = on_codes_alone(micro)
    assert_standard(alone)
    assert kinds(alone) == ["Conv", *["DequantizeLinear"] * 3, "QuantizeLinear"]
    codes = np.random.default_rng(0).integers(0, 256, (2, 6, 9, 7), np.uint8)
    (got,) = outputs(alone, {alone.graph.inputs[0].name: codes}, "as written")
    assert np.abs(got.astype(int) - simulate(made[sites[1].id], codes)).max() <= 1


def test_a_gelu_behind_stays_in_standard_operators():
    text = "(float[2,3,9,7] x) => (float[2,4,7,5] y) { a = Conv(x, w) d = Div(a, r) e = Erf(d) f = Add(e, o) g = Mul(a, f) y = Mul(g, h) }"
    random = np.random.default_rng(3)
    x, weight = random.standard_normal((2, 3, 9, 7)).astype(np.float32), random.standard_normal((4, 3, 3, 3)).astype(np.float32)
    model = graph(text, {"w": weight, **{name: np.float32(number) for name, number in (("r", 2**0.5), ("o", 1), ("h", 0.5))}})
    (site,) = (site for site in find(OnnxBackend().view(model, {})).sites if isinstance(site, ConvSite))
    geometry = Geometry((1, 1), (0, 0, 0, 0), (1, 1), 1)
    y = floats(x, weight, np.zeros(4, np.float32), geometry)
    made = prepare(weight, None, geometry, value_codes([x]), value_codes([y]), [x], narrow=products_saturate())
    after, changed = apply(QuantizeConvs({site.id: made}, OnnxStyle.qdq), model, [choose("int8_conv", site)], [site])
    assert changed == 1
    found, plain = (outputs(each, {"x": x}, "optimised")[0] for each in (after, model))
    assert 0 < np.sum((found - plain) ** 2) < 1e-3 * np.sum(plain**2)
