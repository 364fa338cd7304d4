"""Sites: the places of a `Net` where a rewrite is possible, and misses: the places where one was refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """A kind of sites: places that a rewrite may change."""

    attention = "attention"
    linear = "linear"
    conv = "conv"
    region = "region"
    embedding = "embedding"


@dataclass(frozen=True)
class LinearSite:
    """y = x W + b with a constant W. `weight` is stored [N, K] if `transposed`, else [K, N]; K inputs, N outputs.

    `ops` are the ids it covers (the matmul, any transpose of the weight that only it uses, and a bias add behind it),
    `output` the value after the bias. `rows` is the product of the leading dimensions of x. Sites of equal `group` read the
    same x (q/k/v, gate/up) or share a weight, and must share a number format.

    `activation` are the ops of the relu, gelu or silu that alone reads `output` (none without), `residual` is the add behind both of
    another value of the same shape ("" if none). None is in `ops`, as only a kernel with an epilogue takes them along.
    """

    id: str
    ops: tuple[str, ...]
    x: str
    weight: str
    bias: str
    output: str
    in_features: int
    out_features: int
    transposed: bool
    rows: int
    dtype: str
    group: str
    activation: tuple[str, ...] = ()
    residual: str = ""


@dataclass(frozen=True)
class ConvSite:
    """A convolution with constant weight [C_out, C_in/groups, *kernel], and the batch norm behind it, if that can
    be folded ("" if none). `bias` may be the constant of an addition behind it, which is then one of `ops`.

    `activation` is the clip to [`low`, `high`] behind both (a ReLU too), where nothing else reads `output` ("" if none), and `activated`
    what it writes: saturating codes hold it as it is. Neither is in `ops`, as only an integer format takes it along.
    """

    id: str
    ops: tuple[str, ...]
    x: str
    weight: str
    bias: str
    output: str
    batch_norm: str
    groups: int
    dtype: str
    activation: str = ""
    activated: str = ""
    low: float = -math.inf
    high: float = math.inf

    @property
    def reads(self) -> tuple[str, ...]:
        """The one value that it reads, as a tuple: see `ElementwiseSite`."""
        return (self.x,)

    @property
    def result(self) -> str:
        """The value behind the activation, if there is one."""
        return self.activated or self.output


@dataclass(frozen=True)
class ElementwiseSite:
    """What stands between convolutions and can run on the codes that they read and write: `function` "add", of two values of one shape
    [B, C, *], "gelu" of one, or its "mean" over all places, [B, C, 1...] or [B, C]. `reads` are these values, `output` is what it writes;
    `activation` and what follows as in `ConvSite`."""

    id: str
    ops: tuple[str, ...]
    function: str
    reads: tuple[str, ...]
    output: str
    dtype: str
    activation: str = ""
    activated: str = ""
    low: float = -math.inf
    high: float = math.inf

    @property
    def result(self) -> str:
        """The value behind the activation, if there is one."""
        return self.activated or self.output


CodedSite = ConvSite | ElementwiseSite
"""Sites that can run on u8 codes: values stay in codes from one to the next."""


@dataclass(frozen=True)
class SiteMask:
    """One of several masks on the scores of an attention. "additive": `factor` times the value is added. "boolean" (True = attend)
    and "boolean_inverted": `fill` takes the place of the scores that are left out.

    `axes` is "" where the value broadcasts over [B, H, N, S]; else it names the axes that the value holds ("BH1S") when it is given
    that shape.
    """

    value: str
    kind: str
    factor: float = 1.0
    fill: float = -math.inf
    axes: str = ""


@dataclass(frozen=True)
class AttentionSite:
    """softmax(softcap * tanh(scale * q k^T / softcap) + mask) v (no tanh where `softcap` is 0), with q [B, H, N, D], k and v
    [B, H_kv, S, D] and output [B, H, N, D_v].

    `query`, `key`, `value` name the values that hold these layouts *before* the scale. `key_transposed` says that `key`
    names k^T [B, H_kv, D, S] (ONNX exporters transpose it in one step). `mask` is a value broadcast over
    [B, H, N, S] ("" if none), `mask_kind` "additive", "boolean" (True = attend) or "boolean_inverted" (True = leave out).
    `form` is "operator" for an op that already is attention, "packed" for one whose operands have another layout (heads side by side,
    a cache, q, k and v in one), which is kept as it is, and "walk" for one found from its softmax.

    `mask_is_causal`: whatever the inputs hold, the masks hide the later positions and nothing else, so that an operator that is causal
    by itself need not read them. `pads_keys`: beside that, the masks hide whole keys, padding, by what an input holds; the last row of the
    masks, which sees all others, says which. What a query whose every key is hidden gives is not defined.

    Where `mask` alone does not say it, `mask_kind` is "several", and `masks` has all of them, in the order in which the scores meet
    them. `sink` is a value over [B, H, N, 1], one more logit in each row, whose weight meets no value ("" if none).
    """

    id: str
    ops: tuple[str, ...]
    query: str
    key: str
    value: str
    output: str
    scale: float
    mask: str
    mask_kind: str
    causal: bool
    softcap: float
    batch: int
    heads: int
    kv_heads: int
    query_length: int
    key_length: int
    head_dim: int
    key_transposed: bool
    dtype: str
    form: str
    masks: tuple[SiteMask, ...] = ()
    sink: str = ""
    mask_is_causal: bool = False
    pads_keys: bool = False

    @property
    def every_mask(self) -> tuple[SiteMask, ...]:
        """All its masks in one form."""
        return self.masks or ((SiteMask(self.mask, self.mask_kind),) if self.mask else ())

    @property
    def sees_no_later(self) -> bool:
        """Whether no position sees a later one, and each sees all before it but for padding."""
        return self.mask_is_causal or (self.causal and (not self.mask or self.pads_keys))


@dataclass(frozen=True)
class Region:
    """Ops that may become one kernel. `kind` names the pattern (so far "residual_norm": add, then layer norm); `reads`
    and `writes` are the values that cross its edge, in the order in which the kernel takes them."""

    id: str
    kind: str
    ops: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    dtype: str


@dataclass(frozen=True)
class EmbeddingSite:
    """A lookup of rows of a constant table [`rows`, `width`]: `output` is [..., width] for `indices` [...], of which there are `count`."""

    id: str
    ops: tuple[str, ...]
    indices: str
    table: str
    output: str
    rows: int
    width: int
    count: int
    dtype: str


@dataclass(frozen=True)
class Miss:
    """A refusal. `op` is the op id that blocked it, `kind` what was looked for, `reason` one full sentence."""

    op: str
    kind: str
    reason: str


Site = LinearSite | ConvSite | ElementwiseSite | AttentionSite | Region | EmbeddingSite


def kind_of(site: Site) -> str:
    """The word that reports and plans use for a site: "linear", "conv", "attention", "region" (an `ElementwiseSite` too) or "embedding"."""
    words = {LinearSite: "linear", ConvSite: "conv", AttentionSite: "attention", Region: "region", EmbeddingSite: "embedding"}
    return words[Region if isinstance(site, ElementwiseSite) else type(site)]
