"""Tests of the registration.py of linear_int8, linear_int4 and linear_fp8: torch knows the operators, their fakes and their schema."""

import torch

from szilard.kernels.linear_fp8 import registration as fp8
from szilard.kernels.linear_int4 import registration as int4
from szilard.kernels.linear_int4.packing import pack
from szilard.kernels.linear_int8 import registration as int8
from szilard.kernels.quantized_linear import torch_cuda

TESTS = ("test_schema", "test_faketensor")


def test_the_operators_are_those_of_the_reference_and_pass_torchs_own_checks():
    random = torch.Generator().manual_seed(0)
    x, bias, residual = (torch.randn(shape, generator=random) for shape in ((2, 3, 70), (5,), (2, 3, 5)))
    codes = torch.randint(0, 16, (70, 5), generator=random)
    scale = torch.rand((2, 5), generator=random)
    calls = [
        (int8.linear_int8, (x, codes.to(torch.int8), scale, bias, residual, 64, "gelu"), {}),
        (int4.linear_int4, (x, pack(codes), scale, None, bias, residual), {"group": 64, "activation": "gelu"}),
        (fp8.linear_fp8, (x, codes.T.contiguous().float().to(torch.float8_e4m3fn), scale[0], bias, residual, True, "relu"), {}),
    ]
    for operator, arguments, named in calls:
        # torch's check of the schema multiplies operands, which it cannot do with fp8.
        torch.library.opcheck(operator, arguments, named, test_utils=TESTS[1:] if operator is fp8.linear_fp8 else TESTS)
        y = operator(*arguments, **named)
        assert y.shape == residual.shape
    exact = torch.nn.functional.gelu(x @ (codes.float() * scale.repeat_interleave(64, 0)[:70]) + bias) + residual
    assert torch.allclose(int8.linear_int8(*calls[0][1]), exact, atol=1e-3)
    shifted = exact - int4.linear_int4(
        x, pack(codes), scale, torch.zeros_like(scale), bias, residual, group=64, activation="gelu"
    )
    assert float(shifted.abs().max()) < 1e-3
    assert torch.ops.szilard.linear_int8.default is not None


def test_they_are_traced_as_one_node():
    weight, scale = torch.ones((4, 3), dtype=torch.int8), torch.ones(3)

    class Layer(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return int8.linear_int8(x, weight, scale)

    targets = [str(node.target) for node in torch.export.export(Layer(), (torch.ones(2, 4),)).graph.nodes]
    assert any("szilard.linear_int8" in target for target in targets)


def test_what_uses_the_kernels_brings_the_operators():
    for operator in torch_cuda.OPERATORS:
        assert getattr(torch.ops.szilard, operator._name).default is operator._opoverload
    x, weight, scale = torch.ones(2, 64), pack(torch.full((64, 3), 9)), torch.ones(1, 3)
    assert torch.ops.szilard.linear_int4(x, weight, scale, group=64).tolist() == [[64.0] * 3] * 2
