"""Tests of kernels/quantized_linear/triton_kernel.py: numbers through Triton's interpreter, compilation for GPUs that are not here."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")

from szilard.kernels.quantized_linear import triton_kernel as kernel  # noqa: E402

INTERPRETED = """
import torch
from szilard.kernels.quantized_linear.triton_kernel import int8_linear, int8_linear_plain
torch.manual_seed(0)
torch.set_num_threads(1)
for dtype, tolerance in ((torch.float32, 2e-5), (torch.float16, 4e-3)):
    for shape, columns in (((1, 37), 11), ((2, 9, 130), 65), ((131, 70), 129)):
        x = torch.randn(shape).to(dtype)
        weight = torch.randint(-127, 128, (shape[-1], columns), dtype=torch.int8)
        scale, bias = torch.rand(columns) / 50, torch.randn(columns)
        for offset in (bias, None):
            y, plain = int8_linear(x, weight, scale, offset), int8_linear_plain(x, weight, scale, offset)
            assert y.shape == plain.shape == (*shape[:-1], columns) and y.dtype == dtype
            error = float((y.float() - plain.float()).abs().max() / plain.float().abs().max())
            assert error < tolerance, (dtype, shape, columns, error)
assert int8_linear(torch.randn(0, 5), torch.zeros(5, 3, dtype=torch.int8), torch.ones(3)).shape == (0, 3)
print("equal")
"""


def test_the_interpreted_kernel_equals_plain_torch():
    """Not in bf16: the interpreter of Triton 3.9 multiplies the bit patterns of bf16 as integers."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    found = subprocess.run([sys.executable, "-c", INTERPRETED], capture_output=True, text=True, env=environment, timeout=200)
    assert found.stdout.strip() == "equal", found.stderr[-2000:]


@pytest.mark.parametrize(
    ("architecture", "name", "dtype", "rows", "aligned"),
    [
        (80, "fp16", torch.float16, 1, True),
        (80, "bf16", torch.bfloat16, 4096, False),
        (80, "fp32", torch.float32, 4096, True),
        (90, "fp32", torch.float32, 100, False),
        (90, "fp16", torch.float16, 4096, True),
    ],
)
def test_it_compiles_ahead_of_time_without_spills(architecture, name, dtype, rows, aligned, tmp_path):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    tile = kernel.tile_of(rows, dtype)
    options = {key: tile.pop(key) for key in ("num_warps", "num_stages")} | {"enable_fp_fusion": True}
    pointers = {"x": f"*{name}", "weight": "*i8", "scale": "*fp32", "bias": "*fp32", "y": f"*{name}"}
    sizes = dict.fromkeys(("rows", "columns", "features", "x_stride", "weight_stride", "y_stride"), "i32")
    constants = {"HAS_BIAS": True, **tile}
    signature = {**pointers, **sizes, **dict.fromkeys(constants, "constexpr")}
    divisible = {(i,): [["tt.divisibility", 16]] for i, argument in enumerate(signature) if argument in {**pointers, **sizes}}
    source = ASTSource(kernel.int8_linear_kernel, signature, constexprs=constants, attrs=divisible if aligned else None)
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    assert compiled.metadata.shared <= 163 * 1024, "more shared memory than a block of sm_80 may have"
    (tmp_path / "kernel.cubin").write_bytes(compiled.asm["cubin"])
    inspector = cuobjdump()
    if inspector is None:
        pytest.skip("this build of triton brings no cuobjdump, so spills cannot be read")
    command = [inspector, "--dump-resource-usage", str(tmp_path / "kernel.cubin")]
    usage = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    stack = re.search(r"STACK:(\d+)", usage)
    assert stack is not None, usage
    assert int(stack[1]) == 0, usage


def cuobjdump():
    """The path of cuobjdump in the triton package or on PATH, None without one."""
    inside = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return str(inside) if inside.exists() else shutil.which("cuobjdump")


def test_the_file_can_be_copied_to_an_emitted_folder():
    tree = ast.parse(Path(kernel.__file__).read_text())
    imported = {alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported == {"torch", "triton"}
    assert not any(isinstance(node, ast.ImportFrom) for node in ast.walk(tree))


@pytest.mark.parametrize(
    ("x", "weight", "scale", "sentence"),
    [
        (torch.zeros(2, 3, dtype=torch.int32), torch.zeros(3, 4, dtype=torch.int8), torch.ones(4), "fp16, bf16 or fp32"),
        (torch.zeros(2, 3), torch.zeros(3, 4), torch.ones(4), "weight as int8"),
        (torch.zeros(2, 5), torch.zeros(3, 4, dtype=torch.int8), torch.ones(4), "last axis of x"),
        (torch.zeros(2, 3), torch.zeros(3, 4, dtype=torch.int8), torch.ones(3), "one scale a column"),
    ],
)
def test_operands_that_do_not_fit_are_named(x, weight, scale, sentence):
    with pytest.raises(ValueError, match=sentence):
        kernel.int8_linear_plain(x, weight, scale)
