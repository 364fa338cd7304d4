"""What the PyTorch backend offers on a CPU and on CUDA, and that the number of rows decides whether int8 weights pay on a GPU."""

import numpy as np
import pytest
import torch
from torch import nn

import szilard
from szilard.cost_model.device import load_device
from szilard.cost_model.errors import SzilardError
from szilard.kernels.quantized_linear.formats import FORMATS, TRITON_FORMATS
from szilard.passes.find import find
from szilard.rewriter import backend_torch
from szilard.rewriter.backend import groups_of
from szilard.rewriter.backend_torch import TorchBackend

from .fx_graphs import cleaned, net_of, traced

WIDTH = 512


class Three(nn.Module):
    """Three linears on one input, and one behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(20, 24) for _ in range(3))
        self.output = nn.Linear(24, 20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(torch.tanh(self.query(x)) * self.key(x) + self.value(x))


@pytest.fixture(scope="module")
def offered():
    program = traced(Three(), torch.randn(7, 20))
    net = net_of(cleaned(program), program)
    groups = {len(group.sites): group for group in groups_of(find(net).sites) if group.kind == "linear"}
    backend = TorchBackend(program)
    devices = ("cpu", "h200", "a100")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend_torch, "multiplies_bfloat16", lambda: True)
        return {(n, name): backend.actions(g, net, load_device(name)) for n, g in groups.items() for name in devices}


def test_a_cpu_has_the_formats_that_need_no_gpu(offered):
    assert {action for action, refusal in offered[1, "cpu"].items() if not refusal} == {*FORMATS, "bfloat16"}
    assert not any("column" in action for action in offered[3, "cpu"])
    assert offered[3, "cpu"]["bfloat16_merged"] == ""
    assert "float16_merged" not in offered[3, "cpu"]


def test_a_cpu_without_instructions_for_bfloat16_says_so(monkeypatch):
    monkeypatch.setattr(backend_torch, "multiplies_bfloat16", lambda: False)
    program = traced(Three(), torch.randn(7, 20))
    net = net_of(cleaned(program), program)
    for group in groups_of(find(net).sites):
        assert "no instructions" in TorchBackend(program).actions(group, net, load_device("cpu"))["bfloat16"]
        assert TorchBackend(program).actions(group, net, load_device("h200"))["bfloat16"] == ""


@pytest.mark.parametrize("sites", [1, 3])
def test_on_cuda_triton_kernels_and_16_bits_may_be_taken(offered, sites):
    actions = offered[sites, "h200"]
    allowed = {action for action, refusal in actions.items() if not refusal}
    formats = {*TRITON_FORMATS, "float16", "bfloat16"}
    merged = {"merged", *(f"{name}_merged" for name in formats)} if sites > 1 else set()
    assert allowed == formats | merged
    assert all("no CUDA kernel" in actions[name] for name in FORMATS)


def test_fp8_inputs_need_a_gpu_that_multiplies_fp8(offered):
    actions = offered[1, "a100"]
    assert {name for name in TRITON_FORMATS if actions[name]} == {"fp8_token"}
    assert "a100 does not multiply fp8" in actions["fp8_token"]


def test_on_cuda_a_float64_linear_has_no_kernel():
    program = traced(Three().double(), torch.randn(7, 20, dtype=torch.float64))
    for group in groups_of(find(net_of(cleaned(program), program)).sites):
        actions = TorchBackend(program).actions(group, net_of(cleaned(program), program), load_device("h200"))
        assert "its dtype is float64" in actions["int8_column_weight"]
        assert actions["float16"] == "its dtype is float64, and float16 is for float32 alone"


@pytest.fixture(scope="module")
def planned():
    torch.manual_seed(0)
    module = nn.Linear(WIDTH, WIDTH)
    draw = np.random.default_rng(0)
    data = [{"input": draw.standard_normal((8, WIDTH)).astype(np.float32)} for _ in range(4)]

    def plan(rows: int, budget: float = 1e-3):
        sample, workload = (torch.randn(8, WIDTH),), [f"{rows}x{WIDTH}"]
        result = szilard.rewrite(module, sample, target="h200", calibration=data, workload=workload, budget=budget)
        (choice,) = (choice for choice in result.plan.choices if choice.runtime == "torch")
        return choice, result

    return plan


def test_few_rows_gain_by_int8_weights_and_many_next_to_nothing(planned):
    """The weights are expanded again for every tile of rows, which eats what packed weights save on their way to the cores."""
    few, result = planned(1)
    assert few.action == "int8_column_weight"
    assert few.after.joules < few.before.joules
    assert few.after.label == "roofline"
    assert result.report["runtimes"]["torch"]["error"]["measured"] < 1e-3
    many, _ = planned(16384)
    option = next(option for option in many.options if option.action == "int8_column_weight")
    assert not option.reason
    assert 1 - few.after.joules / few.before.joules > 0.15
    assert 1 - option.joules / many.before.joules < 0.02
    assert option.seconds > many.before.seconds


def test_few_rows_take_four_bits_and_many_take_fp8_inputs_where_the_error_allows(planned):
    few, result = planned(1, budget=0.02)
    assert few.action == "int4_group_weight"
    assert result.report["runtimes"]["torch"]["error"]["measured"] < 0.02
    many, _ = planned(16384, budget=0.02)
    assert many.action == "fp8_token"
    assert many.after.label == "roofline"
    assert many.after.seconds < many.before.seconds


def test_where_fp8_would_err_too_much_many_rows_take_float16(planned):
    many, result = planned(16384, budget=1e-6)
    assert many.action == "float16"
    assert many.after.joules < many.before.joules
    assert 1e-10 < result.report["runtimes"]["torch"]["error"]["measured"] < 1e-6


def test_lint_names_a_node_without_a_shape():
    program = traced(Three(), torch.randn(7, 20))
    backend, graph = TorchBackend(program), cleaned(program)
    backend.lint(graph)
    node = next(node for node in graph.graph.nodes if "tanh" in node.name)
    del node.meta["val"]
    with pytest.raises(SzilardError, match=f"left node {node.name} .*without a shape; please report"):
        backend.lint(graph)
