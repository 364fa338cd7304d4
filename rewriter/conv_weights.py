"""What a convolution's site holds: its weight and bias with a batch norm folded in, and its geometry; and stand-ins of sites on codes."""

from __future__ import annotations

import numpy as np

from ..cost_model.net import Net
from ..cost_model.sites import ConvSite, ElementwiseSite
from ..kernels.quantized_conv.codes import Codes
from ..kernels.quantized_conv.elementwise import ACTIONS, SLOPES, PreparedElementwise
from ..kernels.quantized_conv.formats import Geometry, PreparedConv, folded, prepare
from .backend import Group


def conv_weight(net: Net, site: ConvSite) -> tuple[np.ndarray, np.ndarray | None]:
    """Weight and bias [M] of a convolution in float32, with the batch norm behind it folded in."""
    weight, bias = net.array(site.weight), net.array(site.bias) if site.bias else None
    assert weight is not None
    weight = np.array(weight, np.float32, order="C")
    bias = None if bias is None else np.array(bias, np.float32).reshape(-1)
    if not site.batch_norm:
        return weight, bias
    norm = net.ops[site.batch_norm]
    held = {name: net.array(value) for name, value in zip(("gamma", "beta", "mean", "variance"), norm.inputs[1:5], strict=True)}
    return folded(weight, bias, held, float(norm.attributes.get("epsilon", 1e-5)))  # type: ignore[arg-type]


def conv_geometry(net: Net, site: ConvSite) -> Geometry:
    """Strides, pads and dilations of a convolution as its op has them."""
    found = net.ops[site.ops[0]].attributes
    strides, pads, dilations = (tuple(int(x) for x in found[name]) for name in ("strides", "pads", "dilations"))
    return Geometry(strides, pads, dilations, site.groups)


def coded_stand_in(group: Group, net: Net) -> dict[str, PreparedConv | PreparedElementwise]:
    """What the sites of a group become with made-up ranges, for timing alone."""
    codes = Codes(1 / 32, 128)
    made: dict[str, PreparedConv | PreparedElementwise] = {}
    for site in group.sites:
        if isinstance(site, ConvSite):
            made[site.id] = prepare(*conv_weight(net, site), conv_geometry(net, site), codes, codes)
        elif isinstance(site, ElementwiseSite):
            read = (codes,) * len(site.reads)
            made[site.id] = PreparedElementwise(
                ACTIONS[site.function], read, codes, *rank_and_flat(net, site), float(SLOPES[0])
            )
    return made


def rank_and_flat(net: Net, site: ElementwiseSite) -> tuple[int, bool]:
    """The axes of what a site reads, and whether it writes fewer, as a mean may."""
    read, written = (len(net.shape(value) or ()) for value in (site.reads[0], site.result))
    return read, written < read
