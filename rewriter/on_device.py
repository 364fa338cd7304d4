"""A torch.fx graph on another device: its weights, and the tensors that its own nodes make there."""

from __future__ import annotations

import copy

import torch
from torch.fx import GraphModule

from ..cost_model.errors import InputError


def on_device(graph: GraphModule, device: str) -> GraphModule:
    """A copy of `graph` with its parameters, buffers and new tensors on `device` ("cuda"); `graph` stays as it is.

    A trace holds the device of each tensor that it makes ("aten.full", "aten.arange"). It may view what a kernel of another device lays
    out in another order (attention does), so that views become reshapes, which copy only then. Raises InputError where the device has
    no room.
    """
    moved = copy.deepcopy(graph)
    for node in moved.graph.nodes:
        if node.target is torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default
        if isinstance(node.kwargs.get("device"), torch.device | str):
            node.kwargs = {**node.kwargs, "device": torch.device(device)}
    moved.recompile()
    try:
        return moved.to(device)
    except torch.OutOfMemoryError as fault:
        raise InputError(f"The weights do not fit the memory of {device}; free some, or measure a smaller model.") from fault
