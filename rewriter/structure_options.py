"""Other structures of a weight as options of linear sites: low rank on every runtime, and refusals where a structure has no kernel."""

from __future__ import annotations

from ..cost_model.device import Device
from ..cost_model.weight_structure import BLOCK, Structure, relative_joules
from ..kernels.low_rank.factors import LARGEST_SIDE, RANK_STEP, SHARES, rank_of
from .backend import Group

NO_KERNEL = {
    ("block_sparse", "onnxruntime", "cpu"): "onnxruntime's CPU provider has no matrix product with block-sparse weights",
    ("block_sparse", "onnxruntime", "cuda"): "onnxruntime's CUDA provider has no matrix product with block-sparse weights",
    ("two_of_four", "onnxruntime", "cpu"): "onnxruntime's CPU provider has no matrix product with 2:4 weights",
    ("two_of_four", "onnxruntime", "cuda"): "onnxruntime's CUDA provider has no matrix product with 2:4 weights",
    (
        "block_sparse",
        "torch",
        "cpu",
    ): "torch's block-sparse product took 1.9 to 2.7 times the dense one at half the blocks on a CPU",
    ("block_sparse", "torch", "cuda"): "there is no CUDA kernel for block-sparse weights here",
    ("two_of_four", "torch", "cpu"): "torch multiplies 2:4 weights on CUDA alone",
    ("two_of_four", "torch", "cuda"): "torch's product with 2:4 weights is not among the kernels that a rewrite writes yet",
}
"""(structure, runtime, kind of device) -> why it cannot be taken there."""


def structure_actions(group: Group, runtime: str, device: Device) -> dict[str, str]:
    """Action -> the sentence that refuses it for a group of linear sites ("" if it may be taken), with what Theorem 3.24 says that half of
    the weights would cost."""
    linears = group.linears
    shape = linears[0].in_features, sum(site.out_features for site in linears)
    blocks = -(-shape[0] // BLOCK) * -(-shape[1] // BLOCK) // 2
    found = {action: _size_refusal(action, *shape) for action in SHARES}
    for structure in (Structure("block_sparse", *shape, blocks), Structure("two_of_four", *shape)):
        share = relative_joules(structure, linears[0].rows, device, linears[0].dtype)
        reason = NO_KERNEL[structure.name, runtime, device.kind]
        found[structure.name] = f"{reason}; half of the weights would take {share:.2f} of the dense joules by Theorem 3.24"
    return found


def _size_refusal(action: str, features: int, columns: int) -> str:
    if min(features, columns) > LARGEST_SIDE:
        return f"the singular values of a weight of {features} x {columns} take minutes; low ranks are for sides up to {LARGEST_SIDE}"
    if rank_of(action, features, columns):
        return ""
    return f"a weight of {features} x {columns} has that share of its multiplications at a rank below {RANK_STEP}"
