"""The nouns of a decision: `Workload`, `Budget`, `Option`, `Choice`, `Plan`, `Step`. All go to JSON and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .errors import InputError
from .onnx_style import OnnxStyle, style_named
from .sites import Miss

FORMAT = 1


@dataclass(frozen=True)
class Phase:
    """One shape of a workload: input name -> shape, how often it runs, and a short name ("1x128"). `context` is how many positions the
    key/value caches hold already: 0 for a prefill, more for a decode phase, whose shapes are those of the new tokens ("8x1@2048")."""

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    weight: float = 1.0
    context: int = 0


@dataclass(frozen=True)
class Workload:
    """Phases with weights that sum to `share`: 1, or less for the phases that one of several programs of a model runs. Every joule and
    second of a plan is their weighted sum per call of the whole workload."""

    phases: tuple[Phase, ...]
    share: float = 1.0

    def __post_init__(self) -> None:
        total = sum(phase.weight for phase in self.phases)
        if not self.phases or total <= 0 or any(phase.weight < 0 for phase in self.phases):
            raise InputError("A workload needs at least one shape, and its weights must not be negative or all zero.")
        for phase in self.phases:
            if phase.context < 0:
                raise InputError(f"The phase {phase.name} has context {phase.context}; a context must not be negative.")
        object.__setattr__(
            self, "phases", tuple(replace(p, shapes=dict(p.shapes), weight=p.weight / total * self.share) for p in self.phases)
        )


@dataclass(frozen=True)
class Budget:
    """What a plan may cost: `error` is the largest relative squared error of the outputs, ||y - y0||^2 / ||y0||^2 (0 = exact
    rewrites only), or, with a `metric`, the largest absolute drop of it; `joules` a limit per call instead (None = none)."""

    error: float = 0.02
    joules: float | None = None
    metric: str = ""


@dataclass(frozen=True)
class Option:
    """One way to run a site (or a group of sites). `joules`, `seconds` per call of the workload; `label` says how the seconds were
    had ("measured", "table", "roofline"); `saving` is the interval [J] of the saving against "leave"; `error` the
    predicted relative squared error of the outputs; `reason` says why it cannot be taken ("" if it can). `quantized`: what it reads and
    writes are u8 codes, and its price is without conversions, which are those of the edges between sites."""

    action: str
    joules: float
    seconds: float
    label: str
    error: float = 0.0
    saving: tuple[float, float] = (0.0, 0.0)
    reason: str = ""
    quantized: bool = False


@dataclass(frozen=True)
class Choice:
    """What is done at one group of sites and why. `site` is the group's name, `sites` its members; `locked`
    pins `action` when a plan is replayed. `program` is "" in a model of one program, else which of its programs the site is in."""

    site: str
    kind: str
    action: str
    options: tuple[Option, ...]
    sites: tuple[str, ...]
    runtime: str
    reason: str
    locked: bool = False
    program: str = ""

    def option(self, action: str) -> Option:
        """The option of that name; InputError names the ones there are."""
        for option in self.options:
            if option.action == action:
                return option
        known = ", ".join(o.action for o in self.options)
        raise InputError(f"Site {self.site} has no option {action!r}; it has: {known}.")

    @property
    def place(self) -> str:
        """Its runtime, and its program where there are several: "torch", "torch (decode)"."""
        return f"{self.runtime} ({self.program})" if self.program else self.runtime

    @property
    def before(self) -> Option:
        return self.option("leave")

    @property
    def after(self) -> Option:
        return self.option(self.action)


@dataclass(frozen=True)
class Plan:
    """Every choice and every refusal of one rewrite: the one file a user may edit and feed back (`--plan`). `include` and `exclude` are the
    shell patterns of site names that were asked for, `onnx_style` the operators that the .onnx file is written in."""

    target: str
    workload: Workload
    budget: Budget
    choices: tuple[Choice, ...]
    misses: tuple[Miss, ...] = ()
    format: int = FORMAT
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    onnx_style: OnnxStyle = OnnxStyle.runtime

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists; `from_json` is its inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> Plan:
        """The inverse of `to_json`. Raises InputError naming the field that is missing or of the wrong type."""
        try:
            if data["format"] != FORMAT:
                raise InputError(f"plan.json has format {data['format']}; this version reads format {FORMAT}.")
            phases = tuple(
                Phase(p["name"], {k: tuple(v) for k, v in p["shapes"].items()}, p["weight"], int(p.get("context", 0)))
                for p in data["workload"]["phases"]
            )
            choices = tuple(
                Choice(
                    **{
                        **c,
                        "sites": tuple(c["sites"]),
                        "options": tuple(_option(o) for o in c["options"]),
                    }
                )
                for c in data["choices"]
            )
            misses = tuple(Miss(**m) for m in data["misses"])
            budget = {**data["budget"], "error": float(data["budget"]["error"])}
            if budget.get("joules") is not None:
                budget["joules"] = float(budget["joules"])
            include, exclude = (tuple(str(pattern) for pattern in data.get(key, ())) for key in ("include", "exclude"))
            style = style_named(str(data.get("onnx_style", OnnxStyle.runtime)))
            given = (data["target"], Workload(phases), Budget(**budget), choices, misses, data["format"])
            return cls(*given, include, exclude, style)
        except (KeyError, TypeError, ValueError, AttributeError) as fault:
            raise InputError(
                f"plan.json does not have the expected fields ({fault}); write one with `szilard rewrite`."
            ) from fault


def _option(data: Mapping[str, Any]) -> Option:
    """An option from JSON, which has no infinity: a price that is null belongs to an option that cannot be taken."""
    prices = {key: float("inf") if data[key] is None else data[key] for key in ("joules", "seconds", "error")}
    return Option(**{**data, **prices, "saving": tuple(data["saving"])})


@dataclass(frozen=True)
class Step:
    """What one pass did: how many places it changed, node counts, the largest relative squared output error after it, and its seconds."""

    name: str
    changed: int
    nodes_before: int
    nodes_after: int
    max_error: float
    seconds: float
    runtime: str = ""
    notes: tuple[str, ...] = field(default=())
