"""Compiling Triton kernels for GPUs that are not here, and reading what they take: shared memory, registers, spills."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

MOST_SHARED = {80: 163, 90: 227, 100: 227}
"""KiB of shared memory that a block may have, by architecture (CUDA C++ Programming Guide, table of compute capabilities)."""


class Taken(NamedTuple):
    """Bytes of shared memory of a block, registers of a thread, bytes of a thread's stack (where spills go)."""

    shared: int
    registers: int
    stack: int


def compiled(kernel, pointers: dict[str, str], constants: dict[str, object], architecture: int):
    """`kernel` compiled for an architecture, as Triton holds it. `pointers` gives the element types of its pointers, `constants` its
    constexpr arguments, warps and stages; all else is an int32 but `scale`. Pointers, and sizes that a kernel is compiled anew for,
    divide by 16."""
    options = {name: constants[name] for name in ("num_warps", "num_stages", "enable_fp_fusion")}
    values = {name: value for name, value in constants.items() if name not in options}
    kinds = {"scale": "fp32"} | dict.fromkeys(values, "constexpr") | {name: f"*{kind}" for name, kind in pointers.items()}
    signature = {name: kinds.get(name, "i32") for name in kernel.arg_names}
    free = {parameter.name for parameter in kernel.params if parameter.do_not_specialize}
    divisible = [
        at for at, (name, kind) in enumerate(signature.items()) if kind not in ("constexpr", "fp32") and name not in free
    ]
    whole = {(at,): [["tt.divisibility", 16]] for at in divisible}
    source = ASTSource(kernel, signature, constexprs=values, attrs=whole)
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def taken(kernel, pointers: dict[str, str], constants: dict[str, object], architecture: int) -> Taken:
    """What `compiled` takes."""
    made = compiled(kernel, pointers, constants, architecture)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(made.asm["cubin"])
        command = [inspector(), "--dump-resource-usage", str(path)]
        usage = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    found = {name: re.search(rf"{name}:(\d+)", usage) for name in ("REG", "STACK")}
    assert all(found.values()), usage
    return Taken(made.metadata.shared, int(found["REG"][1]), int(found["STACK"][1]))


def inspector() -> str:
    """The path of cuobjdump in the triton package or on PATH, empty without one."""
    inside = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return str(inside) if inside.exists() else shutil.which("cuobjdump") or ""
