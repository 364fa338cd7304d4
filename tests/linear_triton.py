"""What is asked of the Triton kernels of low-bit linear layers under the interpreter, each as a function of plain numbers."""

from contextlib import ExitStack
from unittest import mock

import torch

from szilard.kernels.linear_fp8 import reference as fp8_reference
from szilard.kernels.linear_fp8 import triton_kernel as fp8
from szilard.kernels.linear_int4 import reference as int4_reference
from szilard.kernels.linear_int4 import triton_kernel as int4
from szilard.kernels.linear_int4.packing import pack
from szilard.kernels.linear_int8 import reference as int8_reference
from szilard.kernels.linear_int8 import triton_kernel as int8
from szilard.kernels.linear_parts import triton_parts, tuning


def operands(kernel, features, columns, group, shifted, random):
    """Weight, scales and shifts of a layer, as its kernel takes them."""
    scale_shape = (-(-features // group), columns) if group else (columns,)
    scale = torch.rand(scale_shape, generator=random) / 50
    if kernel == "int8":
        return torch.randint(-127, 128, (features, columns), dtype=torch.int8, generator=random), scale
    if kernel == "int4":
        shift = torch.randn(scale_shape, generator=random).half() / 50 if shifted else None
        return pack(torch.randint(0, 16, (features, columns), generator=random)), scale.half(), shift
    return torch.randn((columns, features), generator=random).to(torch.float8_e4m3fn), scale


def ways(kernel, options):
    """The Triton form and the plain one of a kernel as functions of its operands."""
    chosen = {name: value for name, value in options.items() if name in ("group", "rows_in_fp8", "activation", "deterministic")}
    forms = {
        "int8": (int8.linear_int8_triton, int8_reference.linear_int8_plain),
        "int4": (int4.linear_int4_triton, int4_reference.linear_int4_plain),
        "fp8": (fp8.linear_fp8_triton, fp8_reference.linear_fp8_plain),
    }
    return [lambda *given, form=form: form(*given, **chosen) for form in forms[kernel]]


def agreement(
    kernel, shape, columns, dtype="float32", bias=True, residual=False, shifted=True, device="cpu", one_scale=False, **options
):
    """The largest difference between the kernel and the reference, as a share of the largest output; shape and dtype are checked here.
    With `one_scale` all scales are one number in memory."""
    random, dtype = torch.Generator().manual_seed(sum(shape) + columns), getattr(torch, dtype)
    x = torch.randn(shape, generator=random).to(dtype)
    given = [x, *operands(kernel, shape[-1], columns, options.get("group", 0), shifted, random)]
    if one_scale:
        given[2] = torch.full((1,) * given[2].ndim, 0.02, dtype=given[2].dtype).expand(given[2].shape)
    given.append(torch.randn(columns, generator=random) if bias else None)
    given.append(torch.randn((*shape[:-1], columns), generator=random).to(dtype) if residual else None)
    given = [None if each is None else each.to(device) for each in given]
    found, wanted = (way(*given) for way in ways(kernel, options))
    assert found.shape == wanted.shape == (*shape[:-1], columns)
    assert found.dtype == wanted.dtype == dtype
    assert found.isfinite().all()
    return float((found.float() - wanted.float()).abs().max() / wanted.float().abs().max().clamp(min=1e-9))


def parts(deterministic):
    """(programs that K is split over, shape of what they write to) in a call with few rows, and its error."""
    seen = []
    whole = triton_parts.finish_kernel

    class Spy:
        def __getitem__(self, grid):
            def run(sums, *arguments, **options):
                seen.append(list(sums.shape))
                return whole[grid](sums, *arguments, **options)

            return run

    split = tuning.dispatch("int8", 2, 1100, 70, 0, "float32", processors=triton_parts.INTERPRETED_PROCESSORS).split
    with mock.patch.object(triton_parts, "finish_kernel", Spy()):
        error = agreement("int8", (2, 1100), 70, activation="silu", residual=True, deterministic=deterministic)
    return split, seen, error


def native_fp8():
    """Errors of the kernels that convert fp8 by the GPU's own instruction, as a share of the largest output; what scales of rows are off,
    and the most steps that a code of theirs is off."""
    random = torch.Generator().manual_seed(0)
    x, weight = torch.randn((5, 300), generator=random), torch.randn((40, 300), generator=random).to(torch.float8_e4m3fn)
    found = []
    for rows in (x[:1], x):
        for native in (True, False):
            y = triton_parts.run(
                {"gemv": fp8.fp8_gemv_kernel, "tiled": fp8.fp8_tiled_kernel}, "fp8", rows,
                (weight if native else weight.view(torch.uint8), torch.ones(40), torch.ones(1)), 40, 0,
                {"ROWS_IN_FP8": False, "NATIVE": native}, None, None, "none", True, torch.float32,
            )  # fmt: skip
            wanted = rows @ weight.float().T
            found.append(float((y - wanted).abs().max() / wanted.abs().max()))
    codes, scales = fp8.fp8_rows(x)
    wanted_codes, wanted_scales = fp8_reference.rounded_rows(x)
    off = ordered(codes).abs() - ordered(wanted_codes).abs()
    # The interpreter loses the carry where a mantissa is rounded up to a power of two, and gives half of that.
    lost = (off == -8) & (wanted_codes.view(torch.uint8) & 7 == 0)
    return found, float((scales - wanted_scales).abs().max()), int(off[~lost].abs().max())


def every_code():
    """The largest difference between a GPU's bytes of e4m3, widened without its help, and torch's numbers, over all that are finite."""
    every = torch.arange(256, dtype=torch.uint8)
    every = every[every.view(torch.float8_e4m3fn).float().isfinite()]
    weight = every[None].repeat(16, 1)
    eye = torch.eye(len(every))
    y = triton_parts.run(
        {"gemv": fp8.fp8_gemv_kernel, "tiled": fp8.fp8_tiled_kernel}, "fp8", eye, (weight, torch.ones(16), torch.ones(1)), 16, 0,
        {"ROWS_IN_FP8": False, "NATIVE": False}, None, None, "none", True, torch.float32,
    )  # fmt: skip
    return float((y - every.view(torch.float8_e4m3fn).float()[:, None]).abs().max())


def ordered(codes):
    """e4m3 as integers in the order of its numbers, neighbours one apart."""
    bits = codes.view(torch.uint8).int()
    return torch.where(bits < 128, bits, 128 - bits)


def rows_that_are_not_finite():
    """Which rows of a product of rows in fp8 are NaN when one row of x holds one, and which are with the reference."""
    x, weight = torch.randn((4, 1500), generator=torch.Generator().manual_seed(0)), torch.ones((3, 1500))
    x[1, 1100] = float("nan")
    found = []
    for codes, scales in (fp8.fp8_rows(x), fp8_reference.rounded_rows(x)):
        found.append(((codes.float() @ weight.T) * scales).isnan().all(1).tolist())
    return found


def launches():
    """For each kernel launched by a split product of rows in fp8, whether the device of its operands was the current one."""
    inside, seen = [], []

    class Guard:
        def __init__(self, x):
            self.x = x

        def __enter__(self):
            inside.append(self.x)

        def __exit__(self, *fault):
            inside.pop()

    class Spy:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            seen.append(bool(inside))
            return self.kernel[grid]

    x, weight = torch.randn(2, 1100), torch.randn(70, 1100).to(torch.float8_e4m3fn)
    names = ("fp8_rows_kernel", "fp8_gemv_kernel", "fp8_tiled_kernel")
    with ExitStack() as patches:
        for module, name in [*((fp8, name) for name in names), (triton_parts, "finish_kernel")]:
            patches.enter_context(mock.patch.object(module, name, Spy(getattr(module, name))))
        patches.enter_context(mock.patch.object(torch.cuda, "device_of", Guard))
        fp8.fp8_rows(x)
        fp8.linear_fp8_triton(x, weight, torch.ones(70))
    return seen
