"""Each line of the shipped tuning tables as what a kernel of a low-bit linear layer is compiled for, and what it then takes."""

from itertools import product

from szilard.kernels.linear_fp8 import triton_kernel as fp8
from szilard.kernels.linear_int4 import triton_kernel as int4
from szilard.kernels.linear_int8 import triton_kernel as int8
from szilard.kernels.linear_parts import triton_parts, tuning

from .ahead_of_time import compiled, taken

NAMES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}
KERNELS = {
    "int8": (int8.int8_gemv_kernel, int8.int8_tiled_kernel),
    "int4": (int4.int4_gemv_kernel, int4.int4_tiled_kernel),
    "fp8": (fp8.fp8_gemv_kernel, fp8.fp8_tiled_kernel),
    "fp8 rows": (fp8.fp8_gemv_kernel, fp8.fp8_tiled_kernel),
}
GROUPS = {"int8": (0, 32, 64, 128), "int4": (32, 64, 128), "fp8": (0,), "fp8 rows": (0,)}
FIRST_WITH_FP8 = 89


def configurations(*tables):
    """(kernel, way, tiles, group, dtype) of all that the tables may ask for; without tables those that are shipped."""
    found = {}
    for table in tables or [path.stem for path in sorted(tuning.FOLDER.glob("*.json"))]:
        for line in tuning.lines(table):
            name = line["kernel"]
            groups = [line["group"]] if "group" in line else GROUPS[name]
            dtypes = [line["dtype"]] if "dtype" in line else NAMES
            for group, dtype in product(groups, dtypes):
                rows = line.get("rows", 1 << 20)
                chosen = tuning.dispatch(name, rows, line.get("K", 4096), line.get("N", 4096), group, dtype, table)
                if chosen.table == table:
                    found[repr((name, chosen.way, chosen.tiles, group, dtype))] = (name, chosen.way, chosen.tiles, group, dtype)
    return list(found.values())


def spent(*configuration, **changes):
    """What a kernel takes on an architecture, its bias and residual included."""
    return taken(*compilation(*configuration, **changes))


def assembly(*configuration, **changes):
    """The PTX of a kernel."""
    return compiled(*compilation(*configuration, **changes)).asm["ptx"]


def compilation(name, way, tiles, group, dtype, architecture, *, split=False, atomic=False, shift=True, activation="gelu"):
    """The kernel of a configuration, its pointers, its constants and the architecture."""
    kernel = KERNELS[name][way == "tiled"]
    native = architecture >= FIRST_WITH_FP8
    own = NAMES[dtype]
    pointers = {
        "x": own, "weight": {"int8": "i8", "int4": "u8"}.get(name, "fp8e4nv" if native else "u8"), "scale": "fp16" if group else "fp32",
        "bias": own, "residual": own, "y": own, "parts": "fp32",
    }  # fmt: skip
    constants = {"HAS_BIAS": True, "HAS_RESIDUAL": True, "ACTIVATION": activation, "SPLIT": split, "ATOMIC": atomic}
    if name == "int8":
        constants["GROUP"] = group
    elif name == "int4":
        constants |= {"GROUP": group, "HAS_SHIFT": shift}
        pointers["shift"] = "fp16"
    else:
        in_rows = name == "fp8 rows"
        constants |= {"ROWS_IN_FP8": in_rows, "NATIVE": native}
        pointers |= {"x_scale": "fp32", "x": ("fp8e4nv" if native else "fp16") if in_rows else own}
    return kernel, pointers, {**constants, **tiles, "enable_fp_fusion": True}, architecture


def finish(dtype, architecture, **sizes):
    """The kernel that adds up parts, as `compiled` takes it. `sizes` it is compiled for: a size of 1 always is one of these."""
    own = NAMES[dtype]
    pointers = {"parts": "fp32", "bias": own, "residual": own, "y": own}
    constants = {"HAS_BIAS": True, "HAS_RESIDUAL": True, "ACTIVATION": "gelu", "BLOCK": triton_parts.FINISH_BLOCK}
    options = {"num_warps": 4, "num_stages": 3, "enable_fp_fusion": True}
    return triton_parts.finish_kernel, pointers, constants | options | sizes, architecture


def rows(dtype, architecture):
    """The kernel that rounds rows to fp8, as `compiled` takes it."""
    pointers = {"x": NAMES[dtype], "codes": "fp8e4nv", "scales": "fp32"}
    constants = {"LARGEST": fp8.LARGEST, "BLOCK": fp8.ROW_BLOCK, "num_warps": 4, "num_stages": 3, "enable_fp_fusion": True}
    return fp8.fp8_rows_kernel, pointers, constants, architecture
