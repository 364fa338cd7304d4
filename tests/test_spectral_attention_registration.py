"""Tests of kernels/spectral_attention/registration.py: torch's own checks of an operator, its numbers, gradients, export and compile."""

import pytest
import torch

from szilard.kernels.spectral_attention import reference, registration

from .sparse_attention import operands

OPTIONS = {"scale": 0.3, "tile": 8, "budget": (2, 0, 3, 9), "key_tile": 4}


def inputs(length=50, **changes):
    return operands(3, 2, (4, 2), length, 40, 6, 5, 8, **changes)


def mask():
    return torch.arange(40).expand(2, 40) < torch.tensor([[40], [27]])


QUICK = ("test_schema", "test_autograd_registration", "test_faketensor")


@pytest.mark.parametrize(
    ("masked", "checks"),
    [(False, QUICK), (True, QUICK), pytest.param(True, ("test_aot_dispatch_dynamic",), marks=pytest.mark.long)],
)
def test_torch_accepts_it_as_an_operator(masked, checks):
    """One small head: torch's checks trace the operator with sizes of their own."""
    q, k, v, *codebooks = operands(3, 1, (1, 1), 9, 7, 4, 3, 2)
    arguments = [x.requires_grad_() for x in (q, k, v)] + codebooks
    some = torch.arange(7)[None] < 5 if masked else None
    torch.library.opcheck(registration.spectral_attention_op, (*arguments, some, 0.3, 4, 2, [2]), test_utils=checks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_equals_the_reference(dtype):
    arguments = inputs(dtype=dtype)
    found = registration.spectral_attention(*arguments, **OPTIONS, key_mask=mask())
    wanted = reference.spectral_attention(*arguments, **OPTIONS, key_mask=mask())
    torch.testing.assert_close(
        found, wanted, rtol=max(1e-4, 2 * torch.finfo(dtype).eps), atol=1e-5 if dtype.itemsize > 2 else 1e-3
    )
    uniform = {**OPTIONS, "budget": 2, "key_tile": None}
    torch.testing.assert_close(
        registration.spectral_attention(*inputs(), **uniform),
        reference.spectral_attention(*inputs(), **uniform),
        rtol=1e-4,
        atol=1e-5,
    )


def test_gradients_equal_the_references():
    found, wanted = (
        torch.autograd.grad(run(*x, *books, **OPTIONS, key_mask=mask()).square().sum(), x)
        for run in (registration.spectral_attention, reference.spectral_attention)
        for q, k, v, *books in [inputs()]
        for x in [[each.requires_grad_() for each in (q, k, v)]]
    )
    for ours, theirs in zip(found, wanted, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


class Model(torch.nn.Module):
    def forward(self, q, k, v, query_codebook, key_codebook):
        return registration.spectral_attention(q * 1.5, k, v, query_codebook, key_codebook, **OPTIONS) + 1


def test_it_exports_as_one_node_of_any_length():
    dynamic = ({2: torch.export.Dim("length")}, None, None, None, None)
    program = torch.export.export(Model(), tuple(inputs()), dynamic_shapes=dynamic)
    assert [str(node.target) for node in program.graph.nodes].count("szilard.spectral_attention.default") == 1
    for length in (1, 33, 64):
        torch.testing.assert_close(program.module()(*inputs(length)), Model()(*inputs(length)))


@pytest.mark.long
def test_it_compiles_without_a_break():
    compiled = torch.compile(Model(), backend="aot_eager", fullgraph=True)
    q, *rest = inputs()
    q.requires_grad_()
    found, wanted = compiled(q, *rest), Model()(q, *rest)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(*(torch.autograd.grad(x.sum(), q)[0] for x in (found, wanted)))
