"""The integer formats as torch modules for a CPU. Their source text is what an emitted model.py carries, so it needs torch alone."""

from __future__ import annotations

import inspect

import torch

from .formats import INTEGER_INPUTS, Prepared, row_range_of, zero_points


class Int8Linear(torch.nn.Module):
    """y = x W + b with u8 inputs and s8 weights. `mode`: "dynamic" takes the input range of each x, "static" takes it from `scale` and
    `zero`, "hilo" gives what these codes leave codes of their own, "token" has one scale for each row, from its largest value (and its
    least one, if `two_sided`). `migrated` first multiplies x by `input_scale`. Where torch has oneDNN, its int8 matmul runs; elsewhere
    the same sums in float."""

    weight: torch.Tensor
    weight_scale: torch.Tensor
    bias: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor
    floor: torch.Tensor
    input_scale: torch.Tensor
    packed: torch.Tensor | None

    def __init__(self, in_features: int, out_features: int, mode: str, migrated: bool = False, two_sided: bool = False) -> None:
        super().__init__()
        self.arguments = f"{in_features}, {out_features}, {mode!r}, migrated={migrated}, two_sided={two_sided}"
        self.mode, self.migrated, self.two_sided, self.packed = mode, migrated, two_sided, None
        self.register_buffer("weight", torch.zeros(in_features, out_features, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.ones(out_features))
        self.register_buffer("bias", torch.zeros(out_features))
        if mode != "dynamic":
            self.register_buffer("scale", torch.ones(()))
            self.register_buffer("zero", torch.zeros((), dtype=torch.int32))
        if mode == "token":
            self.register_buffer("floor", torch.ones(()))
        if migrated:
            self.register_buffer("input_scale", torch.ones(in_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = x.float() * self.input_scale if self.migrated else x.float()
        if self.mode == "token":
            peak = values.amax(-1, keepdim=True).clamp(min=self.floor)
            if self.two_sided:
                peak = torch.maximum(peak, values.amin(-1, keepdim=True) * ((self.zero - 255) / self.zero))
            return (self.product(values * (1 / peak), self.scale, self.zero, None) * peak + self.bias).to(x.dtype)
        scale, zero = self.range_of(values) if self.mode == "dynamic" else (self.scale, self.zero)
        y = self.product(values, scale, zero, self.bias)
        if self.mode == "hilo":
            rest = values - (self.codes(values, scale, zero) - zero) * scale
            y = y + self.product(rest, scale / 254, torch.full_like(zero, 128), None)
        return y.to(x.dtype)

    def product(self, values: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        codes = self.codes(values, scale, zero)
        if not (values.is_cpu and torch.backends.mkldnn.is_available()):
            y = ((codes - zero) @ self.weight.float()) * (scale * self.weight_scale)
            return y if bias is None else y + bias
        if self.packed is None:
            self.packed = torch.ops.onednn.qlinear_prepack(self.weight.t().contiguous(), None)
        zeros = torch.zeros_like(self.weight_scale, dtype=torch.int32)
        return torch.ops.onednn.qlinear_pointwise(
            codes.to(torch.uint8),
            scale,
            zero,
            self.packed,
            self.weight_scale,
            zeros,
            bias,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )

    @staticmethod
    def codes(values: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
        return torch.div(values, scale).round_().add_(zero).clamp_(0, 255)

    @staticmethod
    def range_of(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        low, high = torch.aminmax(x)
        low, high = low.clamp(max=0), high.clamp(min=0)
        scale = torch.where(high == low, torch.ones_like(high), (high - low) / 255)
        return scale, torch.round(torch.clamp(-low / scale, 0, 255)).to(torch.int32)

    def _load_from_state_dict(self, *arguments) -> None:
        super()._load_from_state_dict(*arguments)
        self.packed = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "packed": None}

    def extra_repr(self) -> str:
        return self.arguments


class BlockLinear(torch.nn.Module):
    """y = x W + b with weights in 4 or 8 bits, one scale for each `block` inputs of a column. 4 bits in blocks of 32 run on torch's packed
    4-bit matmul with x in bf16 (its rounding is an order below that of the weights); 8 bits, or other devices, are dequantised."""

    weight: torch.Tensor
    weight_scale: torch.Tensor
    weight_zero: torch.Tensor
    bias: torch.Tensor
    packed: tuple[torch.Tensor, torch.Tensor] | None

    def __init__(self, in_features: int, out_features: int, bits: int, block: int) -> None:
        super().__init__()
        self.arguments = f"{in_features}, {out_features}, bits={bits}, block={block}"
        self.in_features, self.out_features, self.bits, self.block, self.packed = in_features, out_features, bits, block, None
        blocks = -(-in_features // block)
        self.register_buffer("weight", torch.zeros(out_features, blocks, block * bits // 8, dtype=torch.uint8))
        self.register_buffer("weight_scale", torch.ones(out_features, blocks))
        self.register_buffer("weight_zero", torch.full((out_features, blocks), 1 << (bits - 1), dtype=torch.uint8))
        self.register_buffer("bias", torch.zeros(out_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not x.is_cpu or self.bits == 8:
            weight = (self.codes() - self.weight_zero[:, :, None].float()) * self.weight_scale[:, :, None]
            weight = weight.reshape(self.out_features, -1)[:, : self.in_features]
            return torch.nn.functional.linear(x, weight.to(x.dtype), self.bias.to(x.dtype))
        if self.packed is None:
            self.packed = self.pack()
        rows = torch.nn.functional.pad(x.reshape(-1, self.in_features).bfloat16(), (0, -self.in_features % self.block))
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(rows.contiguous(), self.packed[0], self.block, self.packed[1])
        y = y[:, : self.out_features].float() + self.bias
        return y.to(x.dtype).reshape(*x.shape[:-1], self.out_features)

    def codes(self) -> torch.Tensor:
        codes = torch.stack([self.weight & 15, self.weight >> 4], dim=-1) if self.bits == 4 else self.weight
        return codes.reshape(self.out_features, -1, self.block).float()

    def pack(self) -> tuple[torch.Tensor, torch.Tensor]:
        spare = -self.out_features % 16
        codes = torch.nn.functional.pad(self.codes().reshape(self.out_features, -1), (0, 0, 0, spare)).int()
        shift = (8 - self.weight_zero.float()) * self.weight_scale
        pairs = torch.nn.functional.pad(torch.stack([self.weight_scale, shift], dim=-1), (0, 0, 0, 0, 0, spare))
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
        return packed, pairs.transpose(0, 1).contiguous().bfloat16()

    def _load_from_state_dict(self, *arguments) -> None:
        super()._load_from_state_dict(*arguments)
        self.packed = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "packed": None}

    def extra_repr(self) -> str:
        return self.arguments


def module_class(action: str) -> type[torch.nn.Module]:
    """The class that runs the format `action` ("_merged" or not)."""
    return Int8Linear if action.removesuffix("_merged") in INTEGER_INPUTS else BlockLinear


def module_source(action: str) -> str:
    """The source text of `module_class(action)`; it needs `import torch` above it and nothing else. `repr` of a built module is the
    expression that makes it again, empty: its state dict holds the rest."""
    return inspect.getsource(module_class(action))


def build(prepared: Prepared) -> torch.nn.Module:
    """A module [..., K] -> [..., N] that runs `prepared` on a CPU. A merged one gives all its columns; the caller splits them."""
    tensors = {name: torch.from_numpy(array) for name, array in prepared.tensors.items() if name != "splits"}
    sizes = (prepared.in_features, prepared.out_features)
    if prepared.base in INTEGER_INPUTS:
        scalars, moved = dict(prepared.scalars), "input_scale" in tensors
        if prepared.base == "int8_token":
            rows = row_range_of(prepared)
            scalars["scale"] = float(rows.step)
            tensors["floor"] = torch.tensor(rows.floor, dtype=torch.float32)
        mode, two_sided = prepared.base.removeprefix("int8_"), bool(scalars.get("two_sided"))
        module: torch.nn.Module = Int8Linear(*sizes, mode, moved, two_sided)
        if mode != "dynamic":
            tensors["scale"] = torch.tensor(scalars["scale"], dtype=torch.float32)
            tensors["zero"] = torch.tensor(int(scalars["zero"]), dtype=torch.int32)
    else:
        module = BlockLinear(*sizes, int(prepared.scalars["bits"]), int(prepared.scalars["block"]))
        tensors["weight_zero"] = torch.from_numpy(zero_points(prepared))
    module.load_state_dict(tensors)
    return module.eval()
