"""Folds a batch normalisation into the convolution before it: action "fold_batch_norm", exact to rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..cost_model.plan import Choice
from ..cost_model.sites import ConvSite, Site
from .onnx_pass import OnnxPass, Surgeon, members, operation

ACTION = "fold_batch_norm"


@dataclass(frozen=True)
class FoldBatchNorm(OnnxPass):
    """1. Conv -> BatchNormalization: one Conv. 2. ConvTranspose -> BatchNormalization: one ConvTranspose.

    W'[o] = W[o] * g[o] / sqrt(var[o] + epsilon), b' = (b - mean) * g / sqrt(var + epsilon) + beta, in float64, rounded once.
    """

    name: ClassVar[str] = "onnx_batch_norm"

    def apply(self, model: ir.Model, choices: Sequence[Choice], sites: Mapping[str, Site]) -> int:
        """See `OnnxPass.apply`; counts the normalisations that went."""
        surgeon = Surgeon(model)
        found = [site for choice in choices if choice.action == ACTION for site in members(choice, sites)]
        pending = [site for site in found if isinstance(site, ConvSite) and surgeon.pending(site)]
        for site in pending:
            _fold(surgeon, site)
        surgeon.close()
        return len(pending)


def _fold(surgeon: Surgeon, site: ConvSite) -> None:
    norm = surgeon.nodes[site.batch_norm]
    conv = norm.inputs[0].producer()  # type: ignore[union-attr]
    assert conv is not None
    gamma, beta, mean, variance = (surgeon.array(str(value.name)).astype(np.float64) for value in norm.inputs[1:5])  # type: ignore[union-attr]
    epsilon = norm.attributes.get_float("epsilon", 1e-5)
    factor = gamma / np.sqrt(variance + epsilon)
    weight = surgeon.array(site.weight)
    bias = surgeon.array(site.bias).astype(np.float64) if site.bias else np.zeros_like(mean)
    scaled = _scale_outputs(weight.astype(np.float64), factor, site.groups, conv.op_type == "ConvTranspose")
    inputs = [
        conv.inputs[0],
        surgeon.constant(f"{site.weight}.folded", scaled.astype(weight.dtype)),
        surgeon.constant(f"{site.weight}.folded_bias", ((bias - mean) * factor + beta).astype(weight.dtype)),
    ]
    attributes = {name: attribute.value for name, attribute in conv.attributes.items()}
    folded = operation(conv.op_type, inputs, f"{site.id}.{ACTION}", **attributes)
    surgeon.replace([site], [folded], {str(norm.outputs[0].name): folded.outputs[0]})


def _scale_outputs(weight: np.ndarray, factor: np.ndarray, groups: int, transposed: bool) -> np.ndarray:
    """Conv stores [C_out, C_in / groups, *kernel], ConvTranspose [C_in, C_out / groups, *kernel] with the groups along C_in."""
    spatial = (1,) * (weight.ndim - 2)
    if not transposed:
        return weight * factor.reshape(-1, 1, *spatial)
    grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    return (grouped * factor.reshape(groups, 1, -1, *spatial)).reshape(weight.shape)
