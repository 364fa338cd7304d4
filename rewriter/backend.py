"""What a runtime must be able to do so that one optimiser serves FX and ONNX: view, run, probe, cut out, rewrite."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..cost_model.device import Device
from ..cost_model.net import Net
from ..cost_model.plan import Choice
from ..cost_model.sites import AttentionSite, CodedSite, EmbeddingSite, LinearSite, Site, kind_of
from ..kernels.quantized_linear.formats import EVERY_FORMAT

Arrays = Mapping[str, np.ndarray]
Runner = Callable[[Arrays], dict[str, np.ndarray]]

FORMAT_ACTIONS = frozenset(f"{name}{suffix}" for name in EVERY_FORMAT for suffix in ("", "_merged"))
EXACT_ACTIONS = frozenset(
    {"leave", "merged", "fused_attention", "keyed_attention", "skip_layer_norm", "sum_layer_norm", "fold_batch_norm"}
)
FIRST_PART = {"keyed_attention": "fused_attention"}
"""Actions of two passes, and the action that the first of them is."""


EXACT_BUT = {
    "keyed_attention": "a row whose every key is hidden sees all of them with it, so that it is not exact for all inputs"
}
"""Actions that are exact for all inputs but some, and for which."""


@dataclass(frozen=True)
class Group:
    """Sites that are decided together: linear sites that read one input, or a single site of any other kind."""

    id: str
    kind: str
    sites: tuple[Site, ...]

    @property
    def ops(self) -> tuple[str, ...]:
        """Op ids that any of its sites covers, without repeats."""
        return tuple(dict.fromkeys(op for site in self.sites for op in site.ops))

    @property
    def linears(self) -> list[LinearSite]:
        """Its linear sites: all of them, or none."""
        return [site for site in self.sites if isinstance(site, LinearSite)]

    @property
    def outputs(self) -> tuple[str, ...]:
        """The values its sites write: where the error of a rewrite enters the rest of the model."""
        return tuple(
            site.result if isinstance(site, CodedSite) else site.output
            for site in self.sites
            if isinstance(site, LinearSite | AttentionSite | CodedSite | EmbeddingSite)
        )


def groups_of(sites: Sequence[Site]) -> tuple[Group, ...]:
    """Groups in the order of their first site."""
    members: dict[tuple[str, str], list[Site]] = {}
    for site in sites:
        name = site.group if isinstance(site, LinearSite) else site.id
        members.setdefault((kind_of(site), name), []).append(site)
    return tuple(Group(name, kind, tuple(found)) for (kind, name), found in members.items())


class Pass(Protocol):
    """One rewrite. `apply` changes the graph in place for the choices whose action is its own and returns how many places changed."""

    @property
    def name(self) -> str: ...

    def apply(self, graph: Any, choices: Sequence[Choice], sites: Mapping[str, Site]) -> int: ...


class Probe(Protocol):
    """A model that can be read and disturbed at chosen values: `capture` returns those values, `run` the model's outputs after adding
    `addends` to them."""

    def capture(self, sample: Arrays, values: Sequence[str]) -> dict[str, np.ndarray]: ...

    def run(self, sample: Arrays, addends: Arrays) -> dict[str, np.ndarray]: ...


class Backend(Protocol):
    """One runtime. Graphs are onnx_ir models or torch.fx GraphModules; nobody above this protocol looks inside. `style` is how rewrites are
    written where the runtime has several ways, "" where it has one."""

    runtime: str

    @property
    def style(self) -> str: ...

    def view(self, graph: Any, shapes: Mapping[str, tuple[int, ...]]) -> Net: ...
    def clone(self, graph: Any) -> Any: ...
    def clean_up(self, graph: Any) -> int: ...
    def lint(self, graph: Any) -> None: ...
    def float_dtypes(self, graph: Any) -> set[str]: ...
    def node_count(self, graph: Any) -> int: ...
    def runner(self, graph: Any) -> AbstractContextManager[Runner]: ...
    def probe(self, graph: Any, read: Sequence[str], disturbed: Sequence[str]) -> AbstractContextManager[Probe]: ...
    def extract(self, graph: Any, net: Net, ops: Collection[str]) -> Any: ...
    def footprint(self, group: Group, net: Net, device: Device) -> tuple[str, ...]: ...
    def passes(self, prepared: Mapping[str, Any]) -> tuple[tuple[frozenset[str], Pass], ...]: ...
    def actions(self, group: Group, net: Net, device: Device) -> dict[str, str]: ...
    def print_step(self, graph: Any) -> str: ...
