"""A call of one of our modules is priced by what it computes and by its packed weights, never as an unknown op."""

import numpy as np
import pytest
import torch
from torch import nn

from szilard.cost_model.counts import count
from szilard.cost_model.device import load_device
from szilard.cost_model.price import price_net
from szilard.kernels.quantized_linear.formats import TORCH_FORMATS, TRITON_FORMATS, prepare
from szilard.passes.fx_quantize_linear import FxQuantizeLinear, module_op

from . import priced_nets
from .fx_graphs import choice, cleaned, net_of, sites_of, traced

ROWS, FEATURES, COLUMNS = 300, 64, 96


def viewed(action: str):
    torch.manual_seed(0)
    program = traced(nn.Linear(FEATURES, COLUMNS), torch.randn(ROWS, FEATURES))
    graph = cleaned(program)
    sites = sites_of(graph, program, "linear")
    if action != "leave":
        weight, bias = (next(p for p in graph.parameters() if p.dim() == d).detach().numpy() for d in (2, 1))
        made = prepare(action, weight.T, bias, program.sample["input"])
        FxQuantizeLinear(prepared=dict.fromkeys(sites, made)).apply(graph, [choice(action, sites)], sites)
    return net_of(graph, program)


def test_every_format_is_priced_with_its_packed_weights():
    floats = price_net(viewed("leave"), load_device("h200")).total
    for action in TORCH_FORMATS:
        total = price_net(viewed(action), load_device("h200")).total
        assert not total.at_least, action
        assert total.unpriced == ()
        weights = total.bytes - 4 * ROWS * (FEATURES + COLUMNS)
        per_weight = weights / (FEATURES * COLUMNS)
        assert (0.5 if action.startswith("int4") else 1.0) < per_weight < 1.4, action
        assert total.bytes < floats.bytes


def test_the_column_form_expands_its_weights_for_each_tile_of_rows():
    net = viewed("int8_column_weight")
    (op,) = (op for op in net.ops.values() if op.kind == "matmul_nbits")
    found = count(op, net)
    assert found.flops == {
        "float32.tensor": 2 * ROWS * FEATURES * COLUMNS,
        "float32": 3 * 2 * FEATURES * COLUMNS + 2 * ROWS * COLUMNS,
    }
    assert found.launches == 1
    assert op.target == "szilard.Int8ColumnLinear"


def test_fp8_inputs_are_products_of_fp8_behind_a_kernel_that_rounds_them():
    net = viewed("fp8_token")
    (op,) = (op for op in net.ops.values() if op.kind == "matmul_nbits")
    assert count(op, net).flops["float8.tensor"] == 2 * ROWS * FEATURES * COLUMNS
    both, weights = (price_net(viewed(action), load_device("h200")).total for action in ("fp8_token", "fp8_column_weight"))
    assert both.terms["arithmetic"] < weights.terms["arithmetic"]
    assert (both.launches, weights.launches) == (2, 1)
    assert both.bytes == weights.bytes


@pytest.mark.parametrize(
    ("rows", "attributes", "kernels"),
    [
        (64, {}, 1),
        (64, {"split_rows": 64}, 2),
        (65, {"split_rows": 64}, 1),
        (1, {"split_rows": 64, "computed_in": "float8"}, 3),
    ],
)
def test_kernels_before_and_behind_a_product_are_counted(rows, attributes, kernels):
    shapes = {"a": (1, rows, 64), "b": (3, 64), "s": (3,), "y": (1, rows, 3)}
    net = priced_nets.net_of(shapes, [("matmul_nbits", ["a", "b", "s"], ["y"], attributes)], dtypes={"b": "uint8"})
    assert count(net.ops["op0"], net).launches == kernels


def test_long_sums_of_few_rows_are_two_kernels():
    made = [prepare(action, np.ones((features, 2))) for features in (1023, 1024) for action in TRITON_FORMATS]
    assert [module_op(each).attributes["split_rows"] for each in made] == [0] * 4 + [64] * 4
