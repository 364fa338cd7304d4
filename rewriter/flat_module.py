"""A module seen as a function from named tensors to named tensors, whatever containers its forward takes and gives."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from ..cost_model.errors import InputError
from .fault_text import fault_text


def split_sample(module: nn.Module, sample: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(tensors by parameter name of `forward`, the other arguments by name) of a tensor, a tuple or a dict of arguments.

    numpy arrays count as tensors; None is dropped. Raises InputError for an argument that `forward` does not take, for one that is a
    container (only plain tensors and constants can be inputs of a program) and for a sample without tensors.
    """
    signature = inspect.signature(module.forward)
    if isinstance(sample, torch.Tensor | np.ndarray):
        sample = (sample,)
    name = type(module).__name__
    try:
        if isinstance(sample, Mapping):
            bound = signature.bind_partial(**sample)
        elif isinstance(sample, Sequence):
            bound = signature.bind_partial(*sample)
        else:
            raise InputError(f"The sample inputs of {name} must be a tuple or a dict of tensors, not {type(sample).__name__}.")
    except TypeError as fault:
        takes = ", ".join(signature.parameters)
        raise InputError(f"The sample inputs do not fit {name}.forward, which takes ({takes}): {fault_text(fault)}.") from fault
    tensors: dict[str, torch.Tensor] = {}
    constants: dict[str, Any] = {}
    for key, value in _spread(signature, bound.arguments):
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(np.array(value))
        if isinstance(value, torch.Tensor):
            tensors[key] = value.detach()
        elif isinstance(value, bool | int | float | str):
            constants[key] = value
        elif value is not None:
            raise InputError(
                f"Input {key!r} of {name} is a {type(value).__name__}; wrap the module so that each input is a tensor or a plain constant."
            )
    if not tensors:
        raise InputError(f"The sample inputs of {name} hold no tensor; give at least one.")
    return tensors, constants


def _spread(signature: inspect.Signature, arguments: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in arguments.items():
        kind = signature.parameters[key].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            yield from value.items()
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            yield from ((f"{key}_{index}", item) for index, item in enumerate(value))
        else:
            yield key, value


def named_tensors(result: Any, name: str = "output") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor in a result with a flat name: "logits", "hidden_states_0", "past_key_values_1_key"; None and non-tensors are left out.

    Understands tensors, sequences, mappings, dataclasses, named tuples and the key-value caches of transformers.
    """
    if isinstance(result, torch.Tensor):
        yield name, result
        return
    inner = "" if name == "output" else f"{name}_"
    fields: list[tuple[str, Any]] = []
    if isinstance(result, Mapping):
        fields = [(str(key), value) for key, value in result.items()]
    elif dataclasses.is_dataclass(result) and not isinstance(result, type):
        fields = [(field.name, getattr(result, field.name)) for field in dataclasses.fields(result)]
    elif isinstance(result, tuple) and hasattr(result, "_fields"):
        fields = list(zip(result._fields, result, strict=True))
    elif isinstance(result, list | tuple):
        inner = f"{name}_"
        fields = [(str(index), value) for index, value in enumerate(result)]
    elif hasattr(result, "self_attention_cache"):
        fields = [("self", result.self_attention_cache), ("cross", result.cross_attention_cache)]
    elif hasattr(result, "layers"):
        layers = list(result.layers)
        fields = [
            (f"{i}_{part}", getattr(layer, f"{part}s", None)) for i, layer in enumerate(layers) for part in ("key", "value")
        ]
    for key, value in fields:
        yield from named_tensors(value, inner + key)


def distinct(outputs: Sequence[str], inputs: Sequence[str]) -> tuple[str, ...]:
    """Output names that differ from each other and from the input names, as ONNX asks: a taken one gets "_output" behind it."""
    taken, found = set(inputs), []
    for name in outputs:
        while name in taken:
            name += "_output"
        taken.add(name)
        found.append(name)
    return tuple(found)


@contextmanager
def flat_forward(module: nn.Module, inputs: Sequence[str], constants: Mapping[str, Any]) -> Iterator[list[str]]:
    """Within the context, `module.forward` takes the tensors `inputs` by name and returns a flat tuple; the list that is given holds the
    output names once it has run. The module is in evaluation mode meanwhile, and as before afterwards."""
    original = module.forward
    names: list[str] = []
    own = module.__dict__.get("forward")
    positional = [key for key in (*inputs, *constants) if key not in _keywords(original)]
    modes = {each: each.training for each in module.modules()}

    def forward(*values: torch.Tensor, **keywords: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = {**dict(zip(inputs, values, strict=False)), **keywords, **constants}
        result = original(*(given.pop(key) for key in positional), **given)
        found = list(named_tensors(result))
        names[:] = [name for name, _ in found]
        return tuple(tensor for _, tensor in found)

    parameters = [inspect.Parameter(key, inspect.Parameter.POSITIONAL_OR_KEYWORD) for key in inputs]
    forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    module.eval()
    module.forward = forward  # type: ignore[method-assign]
    try:
        yield names
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own  # type: ignore[method-assign]
        for each, mode in modes.items():
            each.training = mode


def _keywords(function: Any) -> frozenset[str] | _Everything:
    """The names that `function` takes as keywords; positional-only and starred ones must be passed by position."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return _Everything()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return frozenset(parameter.name for parameter in parameters if parameter.kind in kinds)


class _Everything:
    def __contains__(self, name: object) -> bool:
        return True
