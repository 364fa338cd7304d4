"""What a microbenchmark runs is what its point says: traced and counted as a model is, it does the same work; on random operands."""

import pytest
import torch

from szilard.cost_model.device import load_device
from szilard.cost_model.joule_design import Point, joule_points
from szilard.cost_model.measurement import work_of
from szilard.cost_model.price import price_net
from szilard.cost_model.view_fx import view_fx
from szilard.rewriter.microbenchmarks_cuda import BYTES, microbenchmark, point_case

DEVICE = load_device("h200")
SMALL = {
    **dict.fromkeys(("neg", "relu", "gelu", "sigmoid", "tanh", "add"), (4096,)),
    **dict.fromkeys(("sum", "softmax", "layer_norm"), (6, 64)),
    "conv": (2, 4, 10, 12, 8, 3),
    **dict.fromkeys(("attention", "causal_attention"), (2, 3, 16, 8)),
}
POINTS = [Point("small", operator, dtype, shape) for operator, shape in SMALL.items() for dtype in ("float32", "bfloat16")]
POINTS += [Point("small", "matmul", "float32", shape) for shape in ((1, 32, 16, 48), (5, 16, 8, 24))]


class Traced(torch.nn.Module):
    def __init__(self, run):
        super().__init__()
        self.run = run

    def forward(self, *operands):
        return self.run.func(*operands, **self.run.keywords)


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.config)
def test_the_work_of_a_point_is_that_of_the_function_it_runs(point):
    run = microbenchmark(point, "cpu")
    assert tuple(tuple(operand.shape) for operand in run.args) == point.operands
    with torch.no_grad():
        exported = torch.export.export(Traced(run), tuple(run.args), strict=False)
    traced = work_of(price_net(view_fx(exported.module(check_guards=False), {}), DEVICE).total)
    assert traced == work_of(point.cost(DEVICE))
    result = run()
    assert tuple(result.shape) == point.net.values["y"].shape
    assert torch.isfinite(result).all()


@pytest.mark.parametrize("dtype", BYTES)
def test_products_of_bytes_have_the_shapes_and_dtypes_of_their_point(dtype):
    point = Point("matmul", "matmul", dtype, (1, 32, 64, 48))
    left, right = microbenchmark(point, "cpu").args
    assert (tuple(left.shape), tuple(right.shape)) == ((32, 64), (64, 48))
    assert str(left.dtype) == str(right.dtype) == f"torch.{dtype}"
    assert right.stride() == (1, 64)
    if dtype == "int8":
        result = microbenchmark(point, "cpu")()
        assert str(result.dtype).removeprefix("torch.") == point.net.values["y"].dtype
        assert torch.equal(result, (left.int() @ right.int()))


def test_operands_are_random_and_zeros_only_on_request():
    point = Point("copy", "neg", "float32", (4096,))
    assert 0.9 < microbenchmark(point, "cpu")().std() < 1.1
    assert not point_case(point, zeros=True).build("cpu")().any()
    assert point_case(point, zeros=True).config != point_case(point).config


def test_every_point_of_every_design_has_a_function():
    for point in joule_points(DEVICE):
        case = point_case(point)
        assert case.work(DEVICE) == {k: v * point.repeats for k, v in work_of(point.cost(DEVICE)).items()}
        small = {"matmul": (1, 32, 64, 48), "wait": ()}.get(point.operator) or SMALL.get(point.operator, ())
        if not point.dtype.startswith("float8"):
            point_case(Point(point.family, point.operator, point.dtype, small)).build("cpu")()
