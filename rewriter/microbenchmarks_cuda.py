"""Points of the joule design as torch callables: random operands, never zeros unless they are asked for, and one kernel a call."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from ..cost_model.joule_design import Point
from .energy_case import EnergyCase

BYTES = ("int8", "float8_e4m3fn")
"""Dtypes whose products have functions of their own in torch."""

Run = Callable[[], object]


def microbenchmark(point: Point, device: str, zeros: bool = False) -> Run:
    """One repeat of `point` on `device`. Raises what torch raises for a dtype or size that the device does not do."""
    if point.operator == "wait":
        return lambda: None
    operands = _operands(point, device, zeros)
    if point.operator == "matmul" and point.dtype in BYTES:
        # Units for bytes want the columns of the right operand contiguous.
        operands[1] = operands[1].t().contiguous().t()
    return partial(_operator(point, device), *operands)


def point_case(point: Point, zeros: bool = False) -> EnergyCase:
    """A microbenchmark as a case; with `zeros` the control whose operands are all zero."""
    name = f"{point.config} zeros" if zeros else point.config
    build = partial(microbenchmark, point, zeros=zeros)
    return EnergyCase(name, point.family, "op", lambda: point.net, build, point.repeats, point.pause, zeros=zeros)


def _operands(point: Point, device: str, zeros: bool) -> list[torch.Tensor]:
    dtype, draw = getattr(torch, point.dtype), torch.Generator(device).manual_seed(0)
    found = []
    for shape in point.operands:
        if dtype == torch.int8:
            tensor = torch.randint(-127, 128, shape, dtype=dtype, device=device, generator=draw)
        else:
            plain = torch.float32 if point.dtype.startswith("float8") else dtype
            tensor = torch.randn(shape, dtype=plain, device=device, generator=draw).to(dtype)
        found.append(torch.zeros_like(tensor) if zeros else tensor)
    return found


def _operator(point: Point, device: str) -> Callable[..., Any]:
    if point.operator == "matmul" and point.dtype == "int8":
        return torch._int_mm
    if point.operator == "matmul" and point.dtype in BYTES:
        one = torch.ones((), device=device)
        return partial(torch._scaled_mm, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
    if point.operator == "layer_norm":
        return partial(functional.layer_norm, normalized_shape=point.shape[-1:])
    return _OPERATORS[point.operator]


_OPERATORS: dict[str, Callable[..., Any]] = {
    "neg": torch.neg,
    "relu": torch.relu,
    "gelu": functional.gelu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "add": torch.add,
    "sum": partial(torch.sum, dim=-1),
    "softmax": partial(torch.softmax, dim=-1),
    "matmul": torch.matmul,
    "conv": functional.conv2d,
    "attention": functional.scaled_dot_product_attention,
    "causal_attention": partial(functional.scaled_dot_product_attention, is_causal=True),
}
