"""Loaded models as calls: the outputs are the runtime's own, and a shape it cannot take is a sentence."""

import numpy as np
import onnx_ir as ir
import pytest
import torch

from szilard.cost_model.errors import InputError
from szilard.cost_model.program import Program
from szilard.rewriter.timed_model import bound_call, named_outputs, onnx_file, timed_model

WEIGHT = np.random.default_rng(2).standard_normal((5, 3)).astype(np.float32)
X = np.random.default_rng(3).standard_normal((7, 5)).astype(np.float32)


def onnx_program() -> Program:
    x = ir.val("x", ir.DataType.FLOAT, ["rows", 5])
    weight = ir.Value(name="w", const_value=ir.tensor(WEIGHT))
    product = ir.node("MatMul", [x, weight])
    value = product.outputs[0]
    value.name, value.type, value.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape(["rows", 3])
    graph = ir.Graph([x], [value], nodes=[product], initializers=[weight], opset_imports={"": 20}, name="g")
    return Program(ir.Model(graph, ir_version=10), "onnxruntime", {"x": X}, ("x",), ("y",), {"x": {0: "rows"}}, "m.onnx")


class Product(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.from_numpy(WEIGHT))

    def forward(self, x):
        return x @ self.weight


def torch_program() -> Program:
    graph = torch.fx.symbolic_trace(Product())
    return Program(graph, "torch", {"x": X}, ("x",), ("y",), {"x": {0: "rows"}}, "module")


@pytest.mark.parametrize("make", [onnx_program, torch_program])
def test_outputs_are_the_runtimes_own(make):
    program = make()
    with timed_model(program, "not a path") as bind:
        call = bound_call(bind, program, {"x": X.astype(np.float64), "more": X})
        np.testing.assert_allclose(named_outputs(program, call)["y"], X @ WEIGHT, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [onnx_program, torch_program])
def test_a_shape_that_it_cannot_take_is_a_sentence(make):
    program = make()
    with timed_model(program, "not a path") as bind, pytest.raises(InputError, match=r"cannot run on x 7x4: .*--shape"):
        bound_call(bind, program, {"x": X[:, :4]})


def test_the_file_behind_a_spec(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("model.onnx", "plan.json", "report.json"):
        assert onnx_file(str(out)) is None
        (out / name).write_text("{}")
    assert onnx_file(str(out)) == out / "model.onnx"
    assert onnx_file(str(out / "model.onnx")) == out / "model.onnx"
    assert onnx_file(str(tmp_path / "none.onnx")) is None
    assert onnx_file("hf:model") is None


def test_a_file_that_onnxruntime_cannot_load(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with (
        pytest.raises(InputError, match="onnxruntime cannot load the model"),
        timed_model(onnx_program(), str(tmp_path / "bad.onnx")),
    ):
        pytest.fail("the block must not run")
