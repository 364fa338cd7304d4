"""What every pass over a torch.fx graph is: a frozen dataclass whose fields are its options."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch.fx import GraphModule

from ..cost_model.plan import Choice
from ..cost_model.sites import Site
from .fx_graph import finish


@dataclass(frozen=True)
class FxPass(ABC):
    """Works in place on an unlifted torch.export graph in core ATen (parameters are get_attr nodes, attention is one node).

    Node names are the op ids and value names of the `Net` that the sites came from. `name` is the pass's name on the
    command line and in `Step`; a subclass implements `rewrite` and reads only the choices whose action is its own.
    """

    name: ClassVar[str]

    def apply(self, graph: GraphModule, choices: Sequence[Choice], sites: Mapping[str, Site]) -> int:
        """Number of places changed. Afterwards the graph has no dead node and no unused weight, is linted and recompiled,
        and every node has `meta["val"]`. `sites` maps the ids in `choice.sites` to their sites."""
        changed = self.rewrite(graph, choices, sites)
        if changed:
            finish(graph)
        return changed

    @abstractmethod
    def rewrite(self, graph: GraphModule, choices: Sequence[Choice], sites: Mapping[str, Site]) -> int:
        """Edits `graph` and gives the number of places changed; dead nodes may stay behind."""
