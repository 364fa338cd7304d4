"""What this machine's processor can do with bytes, as far as it decides how weights may be rounded."""

from __future__ import annotations

from functools import cache
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
VNNI = frozenset({"avx512_vnni", "avx_vnni"})


@cache
def products_saturate(cpu_info: Path = CPU_INFO) -> bool:
    """Whether the sum of two u8 x s8 products saturates at 16 bits here: on x86 processors without VNNI. Weights must then keep to
    7 bits (onnxruntime#6004). False where the processor does not say."""
    try:
        lines = cpu_info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return "avx2" in flags and not VNNI.intersection(flags)
