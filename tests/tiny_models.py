"""One small residual block, as an ONNX model and as a module, with calibration data and a clock that tests can set."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
import torch
from onnx import TensorProto, helper, numpy_helper

from szilard.rewriter import options

WIDTH, HIDDEN = 48, 96


def block_model(seed: int = 0) -> ir.Model:
    """x [batch, 5, 48] -> layer_norm(x + down(relu(up(x)))): two linears of different shape and a residual norm."""
    draw = np.random.default_rng(seed)
    weights = {
        "up.weight": draw.standard_normal((WIDTH, HIDDEN)) / 7,
        "up.bias": draw.standard_normal(HIDDEN) / 7,
        "down.weight": draw.standard_normal((HIDDEN, WIDTH)) / 10,
        "down.bias": draw.standard_normal(WIDTH) / 10,
        "norm.weight": 1 + draw.standard_normal(WIDTH) / 10,
        "norm.bias": draw.standard_normal(WIDTH) / 10,
    }
    nodes = [
        helper.make_node("MatMul", ["x", "up.weight"], ["up_product"], name="up_matmul"),
        helper.make_node("Add", ["up_product", "up.bias"], ["up"], name="up_add"),
        helper.make_node("Relu", ["up"], ["active"], name="relu"),
        helper.make_node("MatMul", ["active", "down.weight"], ["down_product"], name="down_matmul"),
        helper.make_node("Add", ["down_product", "down.bias"], ["down"], name="down_add"),
        helper.make_node("Add", ["x", "down"], ["total"], name="residual"),
        helper.make_node("LayerNormalization", ["total", "norm.weight", "norm.bias"], ["y"], name="norm", axis=-1),
    ]
    shape = ["batch", 5, WIDTH]
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


class Block(torch.nn.Module):
    """The same block as a module, with weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up = torch.nn.Linear(WIDTH, HIDDEN)
        self.down = torch.nn.Linear(HIDDEN, WIDTH)
        self.norm = torch.nn.LayerNorm(WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x + self.down(torch.relu(self.up(x))))


def samples(count: int = 6, seed: int = 1) -> list[dict[str, np.ndarray]]:
    """Calibration samples x [3, 5, 48]."""
    draw = np.random.default_rng(seed)
    return [{"x": draw.standard_normal((3, 5, WIDTH)).astype(np.float32)} for _ in range(count)]


def set_clock(monkeypatch, seconds: Mapping[str, float] | Callable[[str], float], default: float = 1e-3) -> None:
    """Candidates take the seconds given for their action, whatever the machine does; nothing is read from or kept in a table."""

    class Nothing:
        def get(self, key: str) -> None:
            return None

        def put(self, key: str, value: float) -> None:
            pass

    def timed(backend, graphs):
        return {action: [seconds.get(action, default)] for action in graphs}

    monkeypatch.setattr(options, "time_in_turn", timed)
    monkeypatch.setattr("szilard.rewriter.rewrite.TimeTable", Nothing)
    monkeypatch.setattr("szilard.rewriter.rewrite.measured_seconds", lambda each, request: {})
