"""Adds, Gelus and means between convolutions on codes: graphs compute what the reference does."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from scipy.special import erf

import szilard
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

from .elementwise_graphs import TEXT, model_of, numbers
from .onnx_graphs import apply, choose, graph, kinds, run


def scored(model, shape=(2, 3, 9, 7)):
    """(sites, prepared, scores, samples): every site that can run on codes, and every value that one reads."""
    random = np.random.default_rng(1)
    samples = [{"x": random.standard_normal(shape).astype(np.float32)} for _ in range(6)]
    backend = OnnxBackend(samples[0])
    net = backend.view(model, {"x": shape})
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


@pytest.mark.parametrize("function", ["add", "gelu", "mean"])
@pytest.mark.parametrize("places", [(9,), (9, 7), (3, 4, 5)])
def test_one_kind_alone_at_any_rank_in_a_file_without_shapes(function, places):
    """What stands around it is floating point, whose rank no value of the file says."""
    kernel = (1,) * len(places)
    random, sizes = np.random.default_rng(0), ",".join(map(str, places))
    text = f"(float[N,3,{sizes}] x) => (float[N,5,{sizes}] y, float[N,6] z) {{" + TEXT.split("{", 1)[1].replace(
        "y = Glob", "v = Glob"
    )
    text = text.replace("u = Conv(t, w3)", "y = Conv(t, w3)").replace(
        "ReduceMean<keepdims = 0>(u", "ReduceMean<keepdims = 0>(t"
    )
    weights = {
        name: random.standard_normal((rows, columns, *kernel)).astype(np.float32) / 2
        for name, rows, columns in (("w0", 6, 3), ("w1", 6, 6), ("w2", 6, 6), ("w3", 5, 6))
    }
    model = graph(text, {**weights, **numbers(text), "axes": np.arange(2, 2 + len(places))})
    sites, made, _, samples = scored(model, (2, 3, *places))
    chosen = [site for site in sites if isinstance(site, ElementwiseSite) and site.function == function]
    assert len(chosen) == {"add": 2, "gelu": 1, "mean": 2}[function]
    after = on_codes(model, chosen, made)
    assert all(value.shape is None for node in model.graph for value in node.outputs if not value.is_graph_output())
    more = {"x": np.concatenate([samples[0]["x"]] * 2)}
    before, now = ([outputs(each, more)] for each in (model, after))
    assert relative_error(now, before) < 0.01


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


def test_before_opset_10_each_is_refused_with_a_sentence():
    model = model_of(
        TEXT.replace("s = Clip(r, low, high)", "s = Relu(r)")
        .replace("ReduceMean<keepdims = 0>(u, axes)", "Flatten(u)")
        .replace("[2,5] z", "[2,315] z"),
        opset=9,
    )
    net = OnnxBackend().view(model, {})
    reasons = [
        reason
        for group in groups_of(find(net).sites)
        for reason in OnnxBackend().actions(group, net, load_device("cpu")).values()
    ]
    assert all("opset 10" in reason for reason in reasons)


def test_a_whole_rewrite_takes_what_pays_and_leaves_what_it_is_told_to(tmp_path):
    """Wide enough for codes to pay; the plan is replayed, also without what it says of the adds."""
    random = np.random.default_rng(0)
    text = TEXT.replace("[2,", "[N,").replace(",9,7]", ",40,40]")
    shapes = {"w0": (96, 3, 1, 1), "w1": (96, 96, 1, 1), "w2": (96, 96, 1, 1), "w3": (5, 96, 1, 1)}
    weights = {name: random.standard_normal(s).astype(np.float32) / s[1] ** 0.5 for name, s in shapes.items()}
    text = text.replace("[N,6,1,1]", "[N,96,1,1]")
    model = graph(text, {**weights, **numbers(text), "axes": np.array([2, 3], np.int64)})
    data = [{"x": random.standard_normal((1, 3, 40, 40)).astype(np.float32)} for _ in range(10)]

    def actions(**options):
        result = szilard.rewrite(ir.to_proto(model), data[0], calibration=data, budget=0.05, **options)
        assert result.report["error"]["measured"] <= 0.05
        return result, {c.site: c.action for c in result.plan.choices if c.kind == "region"}

    result, taken = actions()
    assert set(taken) == {"n5", "n7", "n10", "n12", "n13"}
    assert {"int8_add", "int8_gelu"} <= set(taken.values()) <= {"leave", *ACTIONS.values()}
    kinds_after = kinds(result.optimised[-1].program.graph)
    assert [kinds_after.count("QLinearAdd"), kinds_after.count("QLinearSigmoid")] == [
        list(taken.values()).count("int8_add"),
        list(taken.values()).count("int8_gelu"),
    ]
    _, again = actions(plan=result.plan)
    assert again == taken
    older = replace(result.plan, choices=tuple(c for c in result.plan.choices if c.kind != "region"))
    assert set(actions(plan=older)[1].values()) == {"leave"}
    assert set(actions(only=["conv"])[1].values()) == {"leave"}


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
    assert elementwise.simulate(PreparedElementwise("int8_mean", (codes,), y, 4), x).tolist() == [[[[9]]]]
    assert elementwise.simulate(PreparedElementwise("int8_mean", (codes,), y, 4, flat=True), x).tolist() == [[9]]
    total = elementwise.simulate(PreparedElementwise("int8_add", (codes, y), y, 4), x, np.full_like(x, 7))
    assert total.tolist() == [[[[7, 11], [15, 19]]]]
