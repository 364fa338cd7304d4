"""What comes behind the sums of a linear layer, in plain torch: bias, activation, residual. And the checks that all of them share."""

import torch

ACTIVATIONS = ("none", "relu", "gelu", "silu")
"""The epilogue's functions; "gelu" is the exact one, of the error function."""
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
GROUPS = (32, 64, 128)
"""Rows of the weight that may share a row of scales."""


def finished(
    sums: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor | None, activation: str, dtype: torch.dtype
) -> torch.Tensor:
    """activation(sums + bias) + residual in fp32, then in `dtype`; sums [..., N], bias [N], residual [..., N]."""
    y = sums.float() if bias is None else sums.float() + bias.float()
    if activation == "relu":
        y = torch.relu(y)
    elif activation == "gelu":
        y = torch.nn.functional.gelu(y)
    elif activation == "silu":
        y = torch.nn.functional.silu(y)
    return (y if residual is None else y + residual.float()).to(dtype)


def check_operands(
    name: str,
    x: torch.Tensor,
    features: int,
    columns: int,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    activation: str,
) -> None:
    """Raises ValueError with a sentence that names the operand of the layer `name`, [features] -> [columns], that does not fit."""
    if x.dtype not in FLOATS:
        raise ValueError(f"{name} takes x as fp16, bf16 or fp32, not {x.dtype}.")
    if x.dim() < 1 or x.shape[-1] != features:
        raise ValueError(f"{name} got x {list(x.shape)} for weights of {features} inputs: the last axis of x must be K.")
    if bias is not None and bias.shape != (columns,):
        raise ValueError(f"{name} takes one bias a column, [{columns}], not {list(bias.shape)}.")
    if residual is not None and residual.shape != (*x.shape[:-1], columns):
        raise ValueError(
            f"{name} adds a residual {[*x.shape[:-1], columns]}, of the shape of its output, not {list(residual.shape)}."
        )
    if activation not in ACTIVATIONS:
        raise ValueError(f"{name} has no activation {activation!r}; it has {', '.join(ACTIVATIONS)}.")
    if x.dim() > 0 and any(each is not None and each.device != x.device for each in (bias, residual)):
        raise ValueError(f"{name} takes x, bias and residual on one device, {x.device}.")


def check_scales(name: str, what: str, scale: torch.Tensor, features: int, columns: int, group: int) -> None:
    """Raises ValueError unless there is one scale for each column ([N], `group` 0) or for each group of rows of one ([K / group, N])."""
    wanted = (-(-features // group), columns) if group else (columns,)
    if scale.shape != wanted:
        raise ValueError(
            f"{name} takes one {what} {'a group of rows and' if group else 'a'} column, {list(wanted)}, not {list(scale.shape)}."
        )
