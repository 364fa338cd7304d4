"""Options of every site with their prices: joules and seconds per call of the workload, each labelled by how it was had."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..cost_model.cost import LABELS
from ..cost_model.errors import SzilardError
from ..cost_model.net import Net
from ..cost_model.plan import Option, Workload
from ..cost_model.price import Cost, total_cost, with_seconds
from ..cost_model.saving import saving_interval
from ..cost_model.sites import AttentionSite
from ..cost_model.timing import TimeTable
from ..kernels.spectral_attention.crossover import sparse_net
from ..passes.onnx_quantize_conv import ON_CODES
from .as_run import AsRun, became
from .backend import Group
from .candidates import candidate, random_feeds, signature, time_in_turn, times_belong_to
from .prediction import Prediction

Nets = Mapping[str, Net]


@dataclass(frozen=True)
class Pricing:
    """Everything a price depends on besides the site. `table` holds seconds measured on the machine at hand, None where the target is
    another one; `before` the prices of the phases as they are, by name, and `decoding` names those with a context: attention is priced
    there, never timed; `priced` remembers, within one run, the cost of every action on work of one signature."""

    prices: AsRun
    workload: Workload
    table: TimeTable | None
    before: Mapping[str, Prediction]
    decoding: Collection[str] = ()
    priced: dict[str, dict[str, Cost | None]] = field(default_factory=dict)

    def options(
        self, graph: Any, nets: Nets, group: Group, actions: Mapping[str, str], progress: Callable[[str], None] = lambda _: None
    ) -> tuple[Option, ...]:
        """One Option for each action, "leave" first; `actions` maps an action to the sentence that refuses it ("" if none)."""
        costs: dict[str, list[Cost]] = {}
        refused = {action: reason for action, reason in actions.items() if reason}
        allowed = ("leave", *(action for action in actions if action not in refused))
        for phase in self.workload.phases:
            if group.kind == "attention" and phase.name in self.decoding:
                ops = self.prices.backend.footprint(group, nets[phase.name], self.prices.device)
                costs.setdefault("leave", []).append(self._as_it_is(ops, nets[phase.name], phase.name))
                continue
            for action, cost in self._costs(graph, nets[phase.name], group, allowed, progress).items():
                if cost is None:
                    refused[action] = f"no {self.prices.backend.runtime} kernel takes this site as {action}"
                else:
                    costs.setdefault(action, []).append(cost)
        leave = costs["leave"]
        found = [self._option("leave", leave, leave)]
        found += [self._option(a, costs[a], leave) for a in actions if a in costs and a not in refused]
        found += [Option(a, float("inf"), float("inf"), "", reason=reason) for a, reason in refused.items()]
        return tuple(found)

    def left_alone(self, nets: Nets, group: Group) -> Option:
        """The one option of a group whose ops cannot be cut out of the model: as it is, at the sum of its ops' prices."""
        backend, device = self.prices.backend, self.prices.device
        costs = [
            self._as_it_is(backend.footprint(group, nets[phase.name], device), nets[phase.name], phase.name)
            for phase in self.workload.phases
        ]
        return self._option("leave", costs, costs)

    def _as_it_is(self, ops: Sequence[str], net: Net, phase: str) -> Cost:
        found = self.before[phase]
        return total_cost(found.ops[op] for op in became(found.net, net, ops))

    def _costs(
        self, graph: Any, net: Net, group: Group, actions: Sequence[str], progress: Callable[[str], None]
    ) -> dict[str, Cost | None]:
        """The cost of each action at the shapes of `net`; None where no pass applies it. Sites that do the same work are priced once."""
        made = partial(candidate, self.prices.backend, graph, net, group, device=self.prices.device)
        original = made("leave")
        same = signature(self.prices.backend, self.prices.backend.view(original, {}))
        known = self.priced.setdefault(same, {})
        missing = [action for action in actions if action not in known]
        if missing:
            # All options of a site are timed in one run, so that their ratio holds even if the machine has changed since.
            graphs = {action: made(action) for action in dict.fromkeys(("leave", *missing))}
            # Other kernels or passes, or another style of the same: another key.
            key = f"{same}/{times_belong_to(self.prices.backend)}"
            able = {a: micro for a, micro in graphs.items() if micro is not None and self._runs(micro, f"{key}/{a}")}
            known.update(dict.fromkeys(graphs) | self._price(able, key, net, group, progress))
        return {action: known[action] for action in actions}

    def _runs(self, micro: Any, key: str) -> bool:
        """Whether the runtime at hand takes a candidate at all; for another machine that cannot be known here. What was timed runs."""
        if self.table is None or self.table.get(key) is not None:
            return True
        try:
            with self.prices.backend.runner(micro) as run:
                run(random_feeds(self.prices.backend.view(micro, {})))
        except SzilardError:
            return False
        return True

    def _price(
        self, graphs: Mapping[str, Any], key: str, net: Net, group: Group, progress: Callable[[str], None]
    ) -> dict[str, Cost]:
        views = {action: self.prices.backend.view(micro, {}) for action, micro in graphs.items()}
        costs = {action: self._modelled(action, graphs[action], view, net, group) for action, view in views.items()}
        if self.table is None:
            return costs
        seconds = {action: self.table.get(f"{key}/{action}") for action in graphs}
        if None in seconds.values():
            progress(f"timing {group.id}: {', '.join(graphs)}")
            timed = time_in_turn(self.prices.backend, {a: (micro, random_feeds(views[a])) for a, micro in graphs.items()})
            # The quietest round: other work on the machine can only add to a time, and the table keeps it for later runs.
            seconds = {action: min(rounds) for action, rounds in timed.items()}
            for action, value in seconds.items():
                self.table.put(f"{key}/{action}", value or 0.0)
        return {action: with_seconds(cost, self.prices.device, seconds[action] or 0.0) for action, cost in costs.items()}

    def _modelled(self, action: str, graph: Any, view: Net, net: Net, group: Group) -> Cost:
        """The cost of a candidate's ops; those of sparse attention are the operators of its ONNX form, since a torch module shows none."""
        site = group.sites[0]
        if action == "spectral_sparse" and isinstance(site, AttentionSite):
            query = net.shape(site.query)
            return self.prices.part(sparse_net(site, query[-2] if query else site.key_length))
        return self.prices.part(view, graph)

    def _option(self, action: str, costs: Sequence[Cost], leave: Sequence[Cost]) -> Option:
        weights = [phase.weight for phase in self.workload.phases]
        intervals = [saving_interval(before, after, self.prices.device) for before, after in zip(leave, costs, strict=True)]
        return Option(
            action=action,
            joules=sum(w * each.joules for w, each in zip(weights, costs, strict=True)),
            seconds=sum(w * each.seconds for w, each in zip(weights, costs, strict=True)),
            label=max((each.label for each in costs), key=LABELS.index),
            saving=(
                sum(w * low for w, (low, _) in zip(weights, intervals, strict=True)),
                sum(w * high for w, (_, high) in zip(weights, intervals, strict=True)),
            ),
            quantized=action in ON_CODES,
        )
