"""Folds a batch normalisation into the convolution before it: action "fold_batch_norm", exact to rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ..cost_model.plan import Choice
from ..cost_model.sites import ConvSite, Site
from ..kernels.quantized_conv.formats import folded
from .chosen import members
from .onnx_pass import OnnxPass, Surgeon, operation

ACTION = "fold_batch_norm"


@dataclass(frozen=True)
class FoldBatchNorm(OnnxPass):
    """1. Conv -> BatchNormalization: one Conv. 2. ConvTranspose -> BatchNormalization: one ConvTranspose.

    In float64, rounded once (`folded`).
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
    names = (str(value.name) for value in norm.inputs[1:5])  # type: ignore[union-attr]
    held = dict(zip(("gamma", "beta", "mean", "variance"), map(surgeon.array, names), strict=True))
    bias = surgeon.array(site.bias) if site.bias else None
    weight, shift = folded(
        surgeon.array(site.weight), bias, held, norm.attributes.get_float("epsilon", 1e-5),
        site.groups, conv.op_type == "ConvTranspose",
    )  # fmt: skip
    inputs = [
        conv.inputs[0],
        surgeon.constant(f"{site.weight}.folded", weight),
        surgeon.constant(f"{site.weight}.folded_bias", shift),
    ]
    attributes = {name: attribute.value for name, attribute in conv.attributes.items()}
    whole = operation(conv.op_type, inputs, f"{site.id}.{ACTION}", **attributes)
    surgeon.replace([site], [whole], {str(norm.outputs[0].name): whole.outputs[0]})
