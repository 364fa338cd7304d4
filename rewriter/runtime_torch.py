"""FX graphs as functions of arrays, and the probe that reads and disturbs values inside one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.fx import GraphModule, Interpreter, Node

from ..cost_model.errors import InputError
from .backend import Arrays, Runner


def as_tensors(arrays: Arrays, names: Sequence[str]) -> tuple[torch.Tensor, ...]:
    """Inputs in the order of `names`."""
    return tuple(as_tensor(arrays[name]) for name in names)


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """A copy as a tensor; bfloat16, which numpy has from ml_dtypes and torch does not take from it, goes over by its bits."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(np.array(array.view(np.int16))).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def as_array(tensor: Any) -> np.ndarray:
    """A result as numpy; bfloat16, which numpy lacks, becomes float32."""
    if not isinstance(tensor, torch.Tensor):
        return np.asarray(tensor)
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def torch_runner(graph: GraphModule, inputs: Sequence[str], outputs: Sequence[str]) -> Runner:
    """The graph as a function from input arrays to output arrays, under inference mode."""

    def run(feeds: Arrays) -> dict[str, np.ndarray]:
        try:
            with torch.inference_mode():
                results = graph(*as_tensors(feeds, inputs))
        except RuntimeError as fault:
            raise InputError(f"PyTorch failed while running the model: {str(fault).splitlines()[0]}") from fault
        return named(results, outputs)

    return run


def named(results: Any, outputs: Sequence[str]) -> dict[str, np.ndarray]:
    """Results under their names, whatever container the graph returns."""
    flat = torch.utils._pytree.tree_leaves(results)
    return {name: as_array(result) for name, result in zip(outputs, flat, strict=True)}


class _Disturbed(Interpreter):
    def __init__(self, graph: GraphModule, wanted: frozenset[str], addends: Mapping[str, torch.Tensor]) -> None:
        super().__init__(graph)
        self.wanted, self.addends = wanted, addends
        self.seen: dict[str, np.ndarray] = {}

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n.name in self.addends:
            result = result + self.addends[n.name].to(result.dtype)
        if n.name in self.wanted:
            self.seen[n.name] = as_array(result)
        return result


class TorchProbe:
    """Interprets the graph node by node; a value is a node's name."""

    def __init__(self, graph: GraphModule, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self._graph, self._inputs, self._outputs = graph, tuple(inputs), tuple(outputs)

    def capture(self, sample: Arrays, values: Sequence[str]) -> dict[str, np.ndarray]:
        """The named values on one sample, undisturbed."""
        interpreter = _Disturbed(self._graph, frozenset(values), {})
        with torch.inference_mode():
            interpreter.run(*as_tensors(sample, self._inputs))
        return interpreter.seen

    def run(self, sample: Arrays, addends: Arrays) -> dict[str, np.ndarray]:
        """The model's outputs on one sample with `addends` (value name -> array) added where they are named."""
        tensors = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in addends.items()}
        with torch.inference_mode():
            results = _Disturbed(self._graph, frozenset(), tensors).run(*as_tensors(sample, self._inputs))
        return named(results, self._outputs)
