"""What is asked of the Triton kernels of causal spectral attention under the interpreter, each as a function of plain numbers."""

import gc
import weakref
from unittest import mock

import torch

from szilard.kernels.spectral_attention import causal_registration, triton_causal, triton_causal_forward
from szilard.kernels.spectral_attention.causal import DENSE, Layout, causal_spectral_attention, key_tiles
from szilard.kernels.spectral_attention.triton_causal_tiles import by_content

from .causal_attention import dense, operands
from .sparse_attention import relative
from .spectral_triton import Watch

SCALE = 0.3


def drawn(dtype, batch, heads, length, width, depth, device="cpu"):
    """Operands as `operands` draws them."""
    given = operands(3, batch, tuple(heads), length, width, depth)
    return [x.to(device, getattr(torch, dtype)) for x in given]


def agreement(budget, layout, gradients=False, **sizes):
    """Relative errors against the reference: of the output, and of the gradients of query, key and value."""
    found, given, layout = [], drawn(**sizes), Layout(*layout)
    tiles = layout.tiles(sizes["length"])
    everywhere = budget if isinstance(budget, int) else [tiles if each is None else each for each in budget]
    for form, budgets in ((triton_causal.causal_spectral_attention, budget), (causal_spectral_attention, everywhere)):
        operands = [x.clone().requires_grad_() for x in given]
        output = form(*operands, scale=SCALE, budget=budgets, layout=layout)
        assert output.dtype == given[0].dtype
        parts = [output.detach()]
        if gradients:
            weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(5)).to(output)
            parts += torch.autograd.grad((output * weight).sum(), operands)
        assert all(x.isfinite().all() for x in parts)
        found.append(parts)
    return [relative(ours, theirs) for ours, theirs in zip(*found, strict=True)]


def same_tiles(layout, **sizes):
    """Whether each tile by content holds the keys that the reference puts there."""
    (_, key, _), layout = drawn(**sizes), Layout(*layout)
    found = by_content(key, layout).long().unflatten(-1, (-1, layout.key_tile))
    padded = torch.nn.functional.pad(key, (0, 0, 0, -key.shape[2] % layout.query_tile))
    wanted = key_tiles(padded, layout, key.shape[2])[:, :, -found.shape[2] :]
    return found.shape == wanted.shape and bool((found.sort(-1).values == wanted.sort(-1).values).all())


def limits(layout, **sizes):
    """Relative errors of all tiles against dense attention, and of a constant value against itself, at no tile and at three."""
    (query, key, value), layout = drawn(**sizes), Layout(*layout)

    def run(value, budget):
        return triton_causal.causal_spectral_attention(query, key, value, scale=SCALE, budget=budget, layout=layout)

    wanted = dense(query, key, value, SCALE)
    constant = torch.full_like(value, 1.5)
    fixed = [relative(run(constant, budget), torch.full_like(wanted, 1.5)) for budget in (0, 3)]
    return [relative(run(value, 999), wanted), *fixed]


def sees_no_later(layout, position, budget, **sizes):
    """Whether other keys and values behind a position leave all outputs up to it as they were, bit for bit, and change one behind it."""
    (query, key, value), options = drawn(**sizes), {"scale": SCALE, "budget": budget, "layout": Layout(*layout)}
    before = triton_causal.causal_spectral_attention(query, key, value, **options)
    key[:, :, position + 1 :] = 50 * torch.randn(key[:, :, position + 1 :].shape)
    value[:, :, position + 1 :] = 1e6
    after = triton_causal.causal_spectral_attention(query, key, value, **options)
    same = (before == after).all(-1).all(1).all(0)
    return bool(same[: position + 1].all()), bool(same[position + 1 :].any())


def logsum(layout, **sizes):
    """Relative error of the log-sum-exp where all is exact, and the greatest share of weight that lies in means there."""
    (query, key, value), layout = drawn(**sizes), Layout(*layout)
    options = triton_causal_forward.Options(SCALE, (DENSE,) * query.shape[1], layout)
    found, _ = triton_causal_forward.attended(query, key, value, options, keep=False)
    wide = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    behind = torch.ones(query.shape[2], query.shape[2], dtype=torch.bool).triu(1)
    wanted = (SCALE * query @ wide.mT).masked_fill(behind, -torch.inf).logsumexp(-1)
    return relative(found.logsum * torch.log(torch.tensor(2.0)), wanted), float(found.far.max())


def passes(workspace, budget, layout, **sizes):
    """(how many passes so little workspace needs, whether output and gradients are then bit for bit as in one)."""
    found, given, layout = [], drawn(**sizes), Layout(*layout)
    for bytes_ in (1 << 29, workspace):
        triton_causal_forward.ranges.cache_clear()
        with mock.patch.object(triton_causal_forward, "WORKSPACE", bytes_):
            operands = [x.clone().requires_grad_() for x in given]
            output = triton_causal.causal_spectral_attention(*operands, scale=SCALE, budget=budget, layout=layout)
            count = len(triton_causal_forward.ranges(output.shape[0] * output.shape[1], output.shape[2], layout))
            found.append([output.detach(), *torch.autograd.grad(output.square().sum(), operands)])
    triton_causal_forward.ranges.cache_clear()
    return count, all(torch.equal(one, many) for one, many in zip(*found, strict=True))


def waits(budget, layout, **sizes):
    """(operators for whose answer the host would wait, forward and backward, in a second call; how many there were at all)."""
    query, key, value = drawn(**sizes)
    query.requires_grad_()
    for _ in range(2):
        with Watch() as watch:
            output = triton_causal.causal_spectral_attention(
                query, key, value, scale=SCALE, budget=budget, layout=Layout(*layout)
            )
            output.sum().backward()
    return watch.waits, watch.count


def replayed(budget, layout, **sizes):
    """Relative error of a replay of the kernels as a CUDA graph, on other operands than those that it was captured with."""
    (query, key, value), options = drawn(**sizes), {"scale": SCALE, "budget": budget, "layout": Layout(*layout)}
    triton_causal.causal_spectral_attention(query, key, value, **options)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = triton_causal.causal_spectral_attention(query, key, value, **options)
    for each in (query, key, value):
        each.copy_(each.flip(2))
    graph.replay()
    return relative(output, triton_causal.causal_spectral_attention(query, key, value, **options))


def registered(budget, layout, **sizes):
    """Relative errors of the registered operator and of its gradients where tensors say that they are on a GPU, and how often the kernels
    ran."""
    found, given, layout = [], drawn(**sizes), Layout(*layout)
    kernels = mock.Mock(wraps=triton_causal.attended)
    on_gpu = (
        mock.patch.object(torch.Tensor, "is_cuda", True),
        mock.patch("torch.cuda.get_device_capability", return_value=(9, 0)),
    )
    with on_gpu[0], on_gpu[1], mock.patch.object(triton_causal, "attended", kernels):
        for form in (causal_registration.causal_spectral_attention, causal_spectral_attention):
            operands = [x.clone().requires_grad_() for x in given]
            output = form(*operands, scale=SCALE, budget=budget, layout=layout)
            found.append([output.detach(), *torch.autograd.grad(output.square().sum(), operands)])
    return [relative(ours, theirs) for ours, theirs in zip(*found, strict=True)], kernels.call_count


def freed(budget, layout, **sizes):
    """Whether an output that can be differentiated is freed with its last name, without the garbage collector."""
    given = [x.requires_grad_() for x in drawn(**sizes)]
    gc.disable()
    output = triton_causal.causal_spectral_attention(*given, scale=SCALE, budget=budget, layout=Layout(*layout))
    kept = weakref.ref(output if output._base is None else output._base)
    del output
    gc.enable()
    return kept() is None
