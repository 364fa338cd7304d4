"""Linears of an ONNX file for CUDA: which formats they may have, and whole rewrites with them."""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

import szilard
from szilard.cost_model.device import load_device
from szilard.cost_model.plan import Phase, Workload
from szilard.cost_model.sites import LinearSite
from szilard.kernels.quantized_linear.formats import FORMATS, INTEGER_INPUTS
from szilard.kernels.quantized_linear.half_formats import HALF_BITS, HALF_FORMATS
from szilard.rewriter.backend import groups_of
from szilard.rewriter.backend_onnx import OnnxBackend
from szilard.rewriter.cuda_formats import cuda_formats
from szilard.rewriter.export_onnx import export_onnx
from szilard.rewriter.report_data import UNVERIFIED

from .fx_graphs import traced
from .onnx_texts import model, normal

SITE = LinearSite("s", ("s",), "x", "w", "b", "y", 320, 65, False, 40, "float32", "s")


def test_what_a_linear_may_have_on_cuda():
    offered = cuda_formats(SITE)
    assert {name for name, reason in offered.items() if not reason} == set(HALF_FORMATS)
    assert set(offered) == {*FORMATS, *HALF_FORMATS}
    assert len({offered[name] for name in INTEGER_INPUTS}) == 1
    assert offered["int4_weight"].endswith("int4_weight_float16 is its form there")
    assert all("CPU provider" not in reason for reason in offered.values())


def test_a_site_in_float16_has_no_need_of_it():
    offered = cuda_formats(replace(SITE, dtype="float16"))
    assert {name for name, reason in offered.items() if not reason} == set(HALF_BITS)
    assert "float16" not in offered


def test_other_dtypes_and_other_numbers_of_inputs_are_refused():
    offered = cuda_formats(replace(SITE, in_features=100))
    assert {name for name in HALF_FORMATS if not offered[name]} == {"float16"}
    assert "100 inputs are no multiple" in offered["int4_weight_float16"]
    for dtype in ("float64", "bfloat16"):
        offered = cuda_formats(replace(SITE, dtype=dtype))
        assert all(f"its dtype is {dtype}, and on CUDA" in offered[name] for name in HALF_FORMATS)


def test_layers_of_one_input_may_be_one():
    (group,) = groups_of([SITE, replace(SITE, id="t", ops=("t",))])
    net = OnnxBackend().view(model("(float[N,3] x) => (float[N,3] y) { y = Relu(x) }"), {"x": (5, 3)})
    offered = OnnxBackend().actions(group, net, load_device("h200"))
    assert {name for name, reason in offered.items() if not reason} >= {"merged", *(f"{name}_merged" for name in HALF_FORMATS)}
    on_cpu = OnnxBackend().actions(group, net, load_device("cpu"))
    assert not any(name.removesuffix("_merged") in HALF_FORMATS for name in on_cpu)


class Branches(nn.Module):
    """x [N, 640] -> two layers of 640 and 65 columns; one of 640 behind the first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wide, self.odd, self.last = nn.Linear(640, 640), nn.Linear(640, 65), nn.Linear(640, 640, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.last(self.wide(x)), torch.tanh(self.odd(x))], dim=-1)


@pytest.mark.long
@pytest.mark.parametrize("budget", [1e-6, 1e-9])
def test_an_exported_model_keeps_its_budget_in_the_forms_for_cuda(tmp_path, budget):
    exported = export_onnx(traced(Branches(), torch.randn(7, 640), dynamic={"x": {0: "rows"}}))
    name = exported.inputs[0]
    data = [{name: normal(seed, 9, 640)} for seed in range(8)]
    many = Workload((Phase("many", {name: (8192, 640)}),))
    result = szilard.rewrite(
        exported.graph, exported.sample, calibration=data, target="h200", budget=budget, workload=many, out=tmp_path / "out"
    )
    actions = {choice.site: choice.action for choice in result.plan.choices if choice.kind == "linear"}
    proto = onnx.load(tmp_path / "out" / "model.onnx")
    onnx.checker.check_model(proto, full_check=True)
    kinds = [node.op_type for node in proto.graph.node]
    if budget < 1e-8:
        assert not any("float16" in action for action in actions.values())
        assert "Cast" not in kinds
        return
    assert any(action.startswith("float16") for action in actions.values())
    assert {ir.DataType.FLOAT16.value} <= {each.data_type for each in proto.graph.initializer}
    assert 0 < result.report["error"]["measured"] <= budget
    assert result.after < 0.9 * result.before
    assert UNVERIFIED in result.report["model"]["notes"]


def test_few_rows_of_a_float16_model_take_few_bits():
    text = "(float16[N,512] x) => (float16[N,576] y) { p = MatMul(x, w) y = Add(p, b) }"
    arrays = {"w": normal(0, 512, 576).astype(np.float16) / 16, "b": normal(1, 576).astype(np.float16)}
    data = [{"x": normal(seed, 3, 512).astype(np.float16)} for seed in range(6)]
    result = szilard.rewrite(model(text, arrays), data[0], calibration=data, target="h200", budget=0.02)
    (choice,) = (choice for choice in result.plan.choices if choice.kind == "linear")
    assert choice.action == "int4_weight_float16"
    kinds = [node.op_type for node in result.optimised[0].program.graph.graph]
    assert sorted(kinds) == ["Add", "MatMulNBits"]
    assert 0 < result.report["error"]["measured"] <= 0.02
    assert result.after < result.before
    tight = szilard.rewrite(model(text, arrays), data[0], calibration=data, target="h200", budget=1e-3)
    (choice,) = (choice for choice in tight.plan.choices if choice.kind == "linear")
    assert choice.action == "int8_weight_float16"
