"""Language models from their configuration alone: each weight is one zero under its full shape, since prices need shapes and dtypes only.

A model of 70 billion parameters takes no memory so, and its checkpoint need not be there. It computes nothing of use.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def hollow_language_model(configuration: Any, dtype: torch.dtype) -> nn.Module:
    """The causal language model of a transformers configuration in evaluation mode. Its buffers (rotary frequencies, masks) are real;
    tied weights stay tied. Raises whatever transformers raises for a configuration without such a model."""
    import transformers

    with _parameters_without_storage():
        model = transformers.AutoModelForCausalLM.from_config(configuration, dtype=dtype, trust_remote_code=False)
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                zero = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
                module._parameters[name] = made.setdefault(id(parameter), nn.Parameter(zero, requires_grad=False))
    return model.eval()


@contextmanager
def _parameters_without_storage() -> Iterator[None]:
    """Within the block a parameter moves to the meta device as soon as a module has it, so that nothing fills it."""
    register = nn.Module.register_parameter

    def without_storage(self: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(self, name, parameter)
        if parameter is not None and not parameter.is_meta:  # one that another module has already is tied
            self._parameters[name] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)

    nn.Module.register_parameter = without_storage  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
