"""Tests of kernels/spectral_attention/causal_registration.py: torch's own checks, numbers, gradients, export and compile."""

import pytest
import torch

from szilard.kernels.spectral_attention import causal, causal_registration

from .causal_attention import SMALL, dense, operands

SCALE = 0.3
SIZES = [SMALL.query_tile, SMALL.key_tile, SMALL.segment, SMALL.sink]
BUDGETS = [2, 0, 5, 9]


def inputs(length=70):
    return operands(3, 2, (4, 2), length, 6, 5)


def run(query, key, value, budget=BUDGETS, form=causal_registration):
    return form.causal_spectral_attention(query, key, value, scale=SCALE, budget=budget, layout=SMALL)


@pytest.mark.parametrize("check", ["test_schema", "test_autograd_registration", "test_faketensor"])
def test_torch_accepts_it_as_an_operator(check):
    given = [x.requires_grad_() for x in operands(3, 1, (1, 1), 30, 4, 3)]
    torch.library.opcheck(causal_registration.causal_spectral_attention_op, (*given, 0.3, [2], SIZES), test_utils=(check,))


def test_it_equals_the_reference_and_none_is_dense():
    given = inputs()
    torch.testing.assert_close(run(*given), run(*given, form=causal), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(run(*given, budget=[None] * 4), dense(*given, SCALE), rtol=1e-4, atol=1e-5)
    assert run(*(x.half() for x in given)).dtype == torch.float16


def test_gradients_equal_the_references():
    found, wanted = (
        torch.autograd.grad(run(*x, form=form).square().sum(), x)
        for form in (causal_registration, causal)
        for x in [[each.requires_grad_() for each in inputs()]]
    )
    for ours, theirs in zip(found, wanted, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


class Model(torch.nn.Module):
    def forward(self, query, key, value):
        return run(query * 1.5, key, value) + 1


def test_it_exports_as_one_node_of_any_length():
    length = torch.export.Dim("length")
    program = torch.export.export(Model(), tuple(inputs()), dynamic_shapes=({2: length},) * 3)
    assert [str(node.target) for node in program.graph.nodes].count("szilard.causal_spectral_attention.default") == 1
    for count in (1, 33, 90):
        torch.testing.assert_close(program.module()(*inputs(count)), Model()(*inputs(count)))


@pytest.mark.long
def test_it_compiles_without_a_break():
    compiled = torch.compile(Model(), backend="aot_eager", fullgraph=True)
    query, *rest = inputs()
    query.requires_grad_()
    found, wanted = compiled(query, *rest), Model()(query, *rest)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(*(torch.autograd.grad(x.sum(), query)[0] for x in (found, wanted)))
