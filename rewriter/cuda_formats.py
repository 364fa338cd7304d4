"""Number formats of a linear in the ONNX file for a GPU, in words of onnxruntime's CUDA provider."""

from __future__ import annotations

from ..cost_model.sites import LinearSite
from ..kernels.quantized_linear.formats import FORMATS, INTEGER_INPUTS
from ..kernels.quantized_linear.half_formats import HALF_BITS, HALF_FORMATS, block_refusal

NO_INT8 = "onnxruntime's CUDA provider has no int8 matmul, it would copy to the host"
WIDE_INPUTS = "its inputs are in float32, twice the bytes and time of float16 on CUDA; {}_float16 is its form there"
DTYPES = ("float32", "float16")


def cuda_formats(site: LinearSite) -> dict[str, str]:
    """Format -> the sentence that refuses it for a linear on CUDA, "" if it may be taken. float16 is none for one that is in it already."""
    found = {name: NO_INT8 if name in INTEGER_INPUTS else WIDE_INPUTS.format(name) for name in FORMATS}
    halves = HALF_FORMATS if site.dtype != "float16" else tuple(HALF_BITS)
    return {**found, **{name: _half_refusal(name, site) for name in halves}}


def only_checked(dtype: str, kernel: str) -> str:
    """Why a kernel is not taken on CUDA for a dtype: what cannot be checked is not written."""
    if dtype == "float32":
        return ""
    return f"its dtype is {dtype}, in which onnxruntime's CPU provider, on which every file is checked, has no {kernel}"


def _half_refusal(name: str, site: LinearSite) -> str:
    if site.dtype not in DTYPES:
        return f"its dtype is {site.dtype}, and on CUDA its forms are of float32 and float16 alone"
    return block_refusal(name, site.in_features)
