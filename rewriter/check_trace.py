"""What a trace must hold to: finite weights, and the module's numbers at the sample's size and at another."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.fx import GraphModule

from ..cost_model.errors import InputError
from .fault_text import fault_text

TOLERANCE = 1e-3
"""Largest allowed difference relative to the largest output. A trace runs the same kernels, so that float32 differs by 1e-6 at most;
decompositions of bfloat16 and float16 round differently, up to 1e-2, hence their own factor."""
HALF_FACTOR = 30.0


def check_finite(parameters: Mapping[str, torch.Tensor], buffers: Mapping[str, torch.Tensor], source: str) -> None:
    """Raises InputError naming the first parameter with NaN or infinity, or buffer with NaN (masks hold infinities on purpose)."""
    for tensors, what in ((parameters, "NaN or infinity"), (buffers, "NaN")):
        for name, tensor in tensors.items():
            if not tensor.dtype.is_floating_point or not tensor.numel() or tensor.is_meta:
                continue
            tensor = tensor[(0,) * tensor.dim()] if hollow(tensor) else tensor
            low, high = torch.aminmax(tensor.detach().float() if tensor.element_size() < 4 else tensor.detach())
            bad = not bool(torch.isfinite(low) & torch.isfinite(high)) if tensors is parameters else bool(torch.isnan(low))
            if bad:
                raise InputError(f"Weight {name!r} of {source} holds {what}; load a checkpoint without them.")


def grown(tensor: torch.Tensor, axes: Mapping[int, str], step: Mapping[str, int], least: int = 0) -> torch.Tensor:
    """`tensor` with its free `axes` made longer by `step[symbol]`, and no shorter than `least`, by going round its own content.

    Sizes 0 and 1 are special to torch.export: an axis traced at 1 is fixed.
    """
    for axis, symbol in axes.items():
        size = max(tensor.shape[axis] + step.get(symbol, 0), least)
        if size != tensor.shape[axis] and tensor.shape[axis]:
            tensor = tensor.index_select(axis, torch.arange(size) % tensor.shape[axis])
    return tensor


def hollow(tensor: torch.Tensor) -> bool:
    """Whether a tensor is one number under a larger shape, as the weights of a model that is only priced are (`models.hollow`)."""
    return tensor.numel() > 1 and not any(tensor.stride())


def check_numbers(module: nn.Module, graph: GraphModule, tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Raises InputError unless `graph` gives the outputs of `module` (its forward being flat) on `tensors`, in shape and number. A module
    with hollow weights computes nothing that could be compared, and may be larger than the machine."""
    weights = [parameter for parameter in module.parameters() if parameter.numel() > 1]
    if weights and all(map(hollow, weights)):
        return
    shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
    try:
        expected = module(**tensors)
    except Exception as fault:  # the module's own code
        raise InputError(f"{source} fails on inputs of shape {shapes}: {fault_text(fault)}.") from fault
    try:
        found = graph(*tensors.values())
    except Exception as fault:  # any operator of the graph may refuse the shapes
        raise InputError(f"The trace of {source} fails on inputs of shape {shapes}: {fault_text(fault)}.") from fault
    for index, (want, got) in enumerate(zip(expected, found, strict=True)):
        if want.shape != got.shape or want.dtype != got.dtype:
            raise InputError(
                f"Output {index} of the trace of {source} is {list(got.shape)} {got.dtype} and not {list(want.shape)} {want.dtype}, "
                f"for inputs of shape {shapes}."
            )
        if not want.numel() or not want.dtype.is_floating_point:
            continue
        both = torch.isfinite(want) & torch.isfinite(got)
        apart = (want - got).abs()[both].max().item() if bool(both.any()) else 0.0
        scale = want.abs()[both].max().item() if bool(both.any()) else 1.0
        allowed = TOLERANCE * (HALF_FACTOR if want.element_size() < 4 else 1.0) * max(scale, 1e-6)
        if apart > allowed or not torch.equal(torch.isnan(want), torch.isnan(got)):
            raise InputError(
                f"The trace of {source} computes other numbers than the module (output {index} differs by {apart:.2g} of {scale:.2g}): "
                "does its forward use random numbers or keep state?"
            )
