"""What this machine's processor can do with bytes and bfloat16, as far as it decides what number formats may be taken."""

from __future__ import annotations

from functools import cache
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
VNNI = frozenset({"avx512_vnni", "avx_vnni"})
BFLOAT16 = frozenset({"amx_bf16", "avx512_bf16", "bf16"})
"""Of x86 the first two, of ARM the last."""


@cache
def products_saturate(cpu_info: Path = CPU_INFO) -> bool:
    """Whether the sum of two u8 x s8 products saturates at 16 bits here: on x86 processors without VNNI. Weights must then keep to
    7 bits (onnxruntime#6004). False where the processor does not say."""
    flags = _flags(cpu_info)
    return "avx2" in flags and not VNNI.intersection(flags)


@cache
def multiplies_bfloat16(cpu_info: Path = CPU_INFO) -> bool:
    """Whether this processor has instructions for products in bfloat16. False where it does not say."""
    return bool(BFLOAT16.intersection(_flags(cpu_info)))


def _flags(cpu_info: Path) -> list[str]:
    """What the first processor says that it can, nothing where it does not say."""
    try:
        lines = cpu_info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
