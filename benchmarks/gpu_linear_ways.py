"""A linear layer on a GPU in every number format that has a kernel: ours, torch's bf16 and torchao's, on weights that no cache holds."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch

from ..kernels.linear_fp8.reference import rounded_rows
from ..kernels.linear_fp8.triton_kernel import linear_fp8
from ..kernels.linear_int4.packing import folded, pack
from ..kernels.linear_int4.reference import weights_of
from ..kernels.linear_int4.triton_kernel import linear_int4
from ..kernels.linear_int8.triton_kernel import linear_int8

GROUP = 128
COLD_BYTES = 512e6
"""Weights of a way that are read in turn: ten times what the last cache of an H100 holds, so that each call reads its own from memory."""
MOST_COPIES = 64
SAMPLED_ROWS, SAMPLED_COLUMNS = 64, 512
BASE = "torch bf16"
Run = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Case:
    """x [rows, width] times W [width, width]."""

    rows: int
    width: int
    dtype: str = "bfloat16"

    @property
    def name(self) -> str:
        return f"{self.rows} x {self.width} x {self.width}"

    def least_bytes(self, bits: float) -> float:
        """Bytes that must move at least: x and y, and the weight with its scales, `bits` for each number of it."""
        return self.width**2 * bits / 8 + 2 * self.rows * self.width * getattr(torch, self.dtype).itemsize


@dataclass(frozen=True)
class Form:
    """One way to hold a weight [N, K] and to multiply by it: operands of it, a call on them, and where the format is ours the float weight
    [K, N] that they stand for. `bits` of a weight include its scales; `kernel` and `group` are what the tuning tables know it by."""

    bits: float
    make: Callable[[torch.Tensor], Any]
    call: Callable[[torch.Tensor, Any], torch.Tensor]
    dense: Callable[[Any], torch.Tensor] | None = None
    kernel: str = ""
    group: int = 0


def forms() -> dict[str, Form]:
    """Every way by name; torchao's are missing where it cannot be imported (`torchao_missing` says why)."""
    return {
        BASE: Form(16.0, lambda weight: weight, torch.nn.functional.linear),
        "szilard int8": Form(8.0, int8_columns, lambda x, w: linear_int8(x, *w), lambda w: w[0].float() * w[1], "int8"),
        "szilard int4": Form(4.25, int4_groups, lambda x, w: linear_int4(x, *w, group=GROUP), dense_int4, "int4", GROUP),
        "szilard fp8": Form(8.0, fp8_columns, lambda x, w: linear_fp8(x, *w), dense_fp8, "fp8"),
        "szilard fp8 x fp8": Form(8.0, fp8_columns, lambda x, w: linear_fp8(x, *w, rows_in_fp8=True), dense_fp8, "fp8 rows"),
        **({} if torchao_missing() else _torchao_forms()),
    }


def int8_columns(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes [K, N] and scales [N], rounded to nearest."""
    scale = weight.float().abs().amax(1) / 127
    return torch.round(weight.float().T / scale).to(torch.int8).contiguous(), scale


def int4_groups(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Packed codes, scales and shifts in groups of `GROUP` rows, from the least to the greatest of each, rounded to nearest."""
    whole = weight.float().T.contiguous()
    grouped = whole.reshape(-1, GROUP, whole.shape[1])
    low, high = grouped.amin(1).clamp(max=0), grouped.amax(1).clamp(min=0)
    scale = ((high - low) / 15).clamp(min=1e-6).half().float()
    zero = torch.round(-low / scale)
    codes = torch.round(grouped / scale[:, None] + zero[:, None]).clamp(0, 15)
    return pack(codes.reshape(whole.shape)), scale.half(), folded(scale, zero).half()


def fp8_columns(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes [N, K] and scales [N]."""
    codes, scale = rounded_rows(weight)
    return codes, scale[:, 0]


def dense_int4(operands: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """The weight [K, N] of `int4_groups`."""
    return weights_of(*operands, len(operands[1]) * GROUP, GROUP)


def dense_fp8(operands: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """The weight [K, N] of `fp8_columns`."""
    return operands[0].float().T * operands[1]


@lru_cache(maxsize=1)
def torchao_missing() -> str:
    """Why torchao is not among the peers, "" if it is."""
    try:
        import torchao.quantization  # noqa: F401
    except Exception as fault:  # it loads extensions of its own, which fail in many ways
        return f"torchao is not among the peers: {' '.join(str(fault).split())[:200]}"
    return ""


def _torchao_forms() -> dict[str, Form]:
    import torchao.quantization as quantization

    packing: dict[str, Any] = {"group_size": GROUP, "int4_packing_format": "tile_packed_to_4d"}
    found = {
        "torchao int8": (8.0, partial(quantization.Int8WeightOnlyConfig)),
        "torchao int4": (4.25, partial(quantization.Int4WeightOnlyConfig, **packing)),
        "torchao fp8": (8.0, partial(quantization.Float8WeightOnlyConfig)),
        "torchao fp8 x fp8": (
            8.0, partial(quantization.Float8DynamicActivationFloat8WeightConfig, granularity=quantization.PerRow())
        ),
        "torchao int8 x int8": (8.0, partial(quantization.Int8DynamicActivationInt8WeightConfig)),
    }  # fmt: skip

    def make(config: Callable[[], Any], weight: torch.Tensor) -> torch.nn.Module:
        module = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta", dtype=weight.dtype)
        module.weight = torch.nn.Parameter(weight, requires_grad=False)
        quantization.quantize_(module, config())
        # Its weight-only forms are made for the compiler: without it they write the whole float weight first.
        module.compile()
        return module

    return {name: Form(bits, partial(make, config), lambda x, module: module(x)) for name, (bits, config) in found.items()}


class Operands:
    """A weight of one width in all forms, each made once, as many copies as no cache holds. What cannot be made is in `refused`."""

    def __init__(
        self, width: int, device: str, dtype: str, only: Mapping[str, str] | None = None, cold_bytes: float = COLD_BYTES
    ) -> None:
        self.width, self.device, self.refused = width, device, dict[str, str]()
        self.forms = {name: form for name, form in forms().items() if only is None or name in only.values()}
        random = torch.Generator(device).manual_seed(width)
        shape = (width, width)
        self.weight = (torch.randn(shape, generator=random, device=device) / width**0.5).to(getattr(torch, dtype))
        self.made: dict[str, list[Any]] = {}
        for name, form in self.forms.items():
            copies = max(1, min(MOST_COPIES, -int(-cold_bytes // (width * width * form.bits / 8))))
            try:
                first = form.make(self.weight)
                self.made[name] = [first, *(_another(first) for _ in range(copies - 1))]
            except Exception as fault:
                self.refused[name] = " ".join(str(fault).split())[:200]

    def input(self, rows: int) -> torch.Tensor:
        """x [rows, width], normal."""
        random = torch.Generator(self.device).manual_seed(rows)
        return torch.randn((rows, self.width), generator=random, device=self.device).to(self.weight.dtype)

    def runs(self, rows: int) -> dict[str, tuple[Run, int]]:
        """Way -> (a call on each of its copies in turn, their number)."""
        x = self.input(rows)
        return {name: (partial(_each, self.forms[name], x, held), len(held)) for name, held in self.made.items()}

    def errors(self, rows: int, names: Mapping[str, object]) -> tuple[dict[str, float], dict[str, float]]:
        """Way -> distance of some of its outputs from float64 products with the float weight, and of those of ours with the weight that
        their codes stand for, as shares of the wanted norm."""
        x, few = self.input(rows), slice(0, SAMPLED_COLUMNS)
        whole, own = {}, {}
        for name in names:
            form, held = self.forms[name], self.made[name][0]
            found = form.call(x, held)[:SAMPLED_ROWS, few].double()
            left = x[:SAMPLED_ROWS].double()
            whole[name] = relative(found, left @ self.weight[few].double().T)
            if form.dense is not None:
                own[name] = relative(found, left @ form.dense(held)[:, few].double())
        return whole, own


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """|found - wanted| / |wanted|, Frobenius."""
    return float((found - wanted).norm() / wanted.norm())


def _each(form: Form, x: torch.Tensor, held: list[Any]) -> torch.Tensor:
    y = x
    with torch.inference_mode():
        for operands in held:
            y = form.call(x, operands)
    return y


def _another(operands: Any) -> Any:
    if isinstance(operands, torch.Tensor):
        return operands.clone()
    return tuple(each.clone() for each in operands) if isinstance(operands, tuple) else copy.deepcopy(operands)
