"""What is asked of the Triton kernels of spectral attention under the interpreter, each as a function of plain numbers."""

import gc
import weakref
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from szilard.benchmarks import gpu_attention
from szilard.kernels.spectral_attention import reference, registration, triton, triton_order

from .sparse_attention import operands, relative

SCALE = 0.3
WAITS = torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape
"""What torch says of operators that read a number, or a shape, from a tensor: on a GPU the host waits for them."""


def drawn(dtype, batch, heads, queries, keys, width, depth, leaves=8, masked=False, device="cpu"):
    """Operands as `operands` draws them and a mask, in which the last batch entry has no key at all where there are several."""
    mask = torch.rand((batch, keys), generator=torch.Generator().manual_seed(7)) < 0.6 if masked else None
    if masked and batch > 1:
        mask[-1] = False
    given = operands(3, batch, tuple(heads), queries, keys, width, depth, leaves, getattr(torch, dtype))
    return [x.to(device) for x in given], None if mask is None else mask.to(device)


def agreement(tile, budget, key_tile=None, gradients=False, **sizes):
    """Relative errors against the reference: of the output, and of the gradients of query, key and value."""
    found, (given, mask) = [], drawn(**sizes)
    for form in (triton, reference):
        head = [x.clone().requires_grad_() for x in given[:3]]
        output = form.spectral_attention(
            *head, *given[3:], scale=SCALE, tile=tile, budget=budget, key_tile=key_tile, key_mask=mask
        )
        assert output.dtype == given[0].dtype
        parts = [output.detach()]
        if gradients:
            weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(5)).to(output)
            parts += torch.autograd.grad((output * weight).sum(), head)
        assert all(x.isfinite().all() for x in parts)
        found.append(parts)
    return [relative(ours, theirs) for ours, theirs in zip(*found, strict=True)]


def same_order(**sizes):
    """Whether rows, and rows under a mask, are sorted as the reference sorts them."""
    (query, key, _, *books), mask = drawn(**sizes)
    pairs = [(query, books[0], None), (key, books[1], mask)]
    return [bool((triton_order.order_of(*each) == reference.sorted_by_leaf(*each)).all()) for each in pairs]


def limits(tile, **sizes):
    """Relative errors of all tiles against dense attention, and of the constant value against itself, at no budget and at one."""
    (query, key, value, *books), _ = drawn(**sizes)

    def run(value, budget):
        return triton.spectral_attention(query, key, value, *books, scale=SCALE, tile=tile, budget=budget)

    group = query.shape[1] // key.shape[1]
    wide = [x.repeat_interleave(group, 1) for x in (key, value)]
    dense = torch.nn.functional.scaled_dot_product_attention(query, *wide, scale=SCALE)
    constant = torch.full_like(value, 1.5)
    fixed = [relative(run(constant, budget), torch.full_like(dense, 1.5)) for budget in (0, 1)]
    return [relative(run(value, 99), dense), *fixed]


def logsum(tile, budget, **sizes):
    """Relative error of the log-sum-exp, in the order of the reference's tiles."""
    given, mask = drawn(**sizes)
    heads = given[0].shape[1]
    options = triton.Options(SCALE, tile, tile, (budget,) * heads)
    found, kept = triton.attended(*given, mask, options)
    plan = reference.layout(*given, scale=SCALE, tile=tile, budget=budget, key_mask=mask)
    wanted = reference.attend(plan)[1].flatten(2)[:, :, : plan.order.shape[-1]]
    assert torch.equal(kept.order.long(), plan.order)
    return relative(found.logsum.gather(2, plan.order) * torch.log(torch.tensor(2.0)), wanted)


class Watch(TorchDispatchMode):
    """Keeps the names of operators for whose answer a GPU's host would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        self.count += 1
        if any(tag in function.tags for tag in WAITS):
            self.waits.append(str(function))
        return function(*arguments, **(named or {}))


def waits(**arguments):
    """(operators for whose answer the host would wait, forward and backward; how many there were at all)."""
    with Watch() as watch:
        (query, key, value, *books), mask = drawn(**arguments)
        query.requires_grad_()
        before = watch.count
        output = triton.spectral_attention(query, key, value, *books, scale=SCALE, tile=16, budget=[1, 2], key_mask=mask)
        output.sum().backward()
    return watch.waits, watch.count - before


def registered(tile, budget, **sizes):
    """Relative errors of the registered operator and of its gradients where tensors say that they are on a GPU, and how often the kernels
    ran."""
    found, (given, mask) = [], drawn(**sizes)
    kernels = mock.Mock(wraps=triton.attended)
    on_gpu = (
        mock.patch.object(torch.Tensor, "is_cuda", True),
        mock.patch("torch.cuda.get_device_capability", return_value=(9, 0)),
    )
    with on_gpu[0], on_gpu[1], mock.patch.object(triton, "attended", kernels):
        for form in (registration, reference):
            head = [x.clone().requires_grad_() for x in given[:3]]
            output = form.spectral_attention(*head, *given[3:], scale=SCALE, tile=tile, budget=budget, key_mask=mask)
            found.append([output.detach(), *torch.autograd.grad(output.square().sum(), head)])
    return [relative(ours, theirs) for ours, theirs in zip(*found, strict=True)], kernels.call_count


def benchmark(arguments):
    """A run of the benchmark for GPUs."""
    gpu_attention.main(arguments)


def replayed(tile, budget, **sizes):
    """Relative error of a replay of the kernels as a CUDA graph, on other operands than those that it was captured with."""
    (query, key, value, *books), _ = drawn(**sizes)
    options = {"scale": SCALE, "tile": tile, "budget": budget}
    triton.spectral_attention(query, key, value, *books, **options)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = triton.spectral_attention(query, key, value, *books, **options)
    query.copy_(query.flip(2))
    graph.replay()
    return relative(output, triton.spectral_attention(query, key, value, *books, **options))


def freed(tile, budget, **sizes):
    """Whether an output that can be differentiated is freed with its last name, without the garbage collector."""
    given, _ = drawn(**sizes)
    operands = [x.requires_grad_() for x in given[:3]]
    gc.disable()
    output = triton.spectral_attention(*operands, *given[3:], scale=SCALE, tile=tile, budget=budget)
    kept = weakref.ref(output if output._base is None else output._base)
    del output
    gc.enable()
    return kept() is None
