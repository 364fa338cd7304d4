"""`serve_limits`: the batch at which a traced decoder costs the fewest joules a token, within memory, a latency and an arrival rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..cost_model.continuous_batching import (
    gathered_batch,
    largest_arrivals,
    marginal_joules,
    occupancy,
    printed_optimal_batch,
)
from ..cost_model.cost import Cost
from ..cost_model.decode import cache_bytes
from ..cost_model.device import Device, load_device
from ..cost_model.errors import InputError
from ..cost_model.net import Net
from ..cost_model.plan import Phase, Workload
from ..cost_model.program import Program
from ..cost_model.provenance import provenance_shares
from ..cost_model.serving import (
    OperatingPoint,
    cheapest,
    doubling,
    heuristic_batch,
    largest_batch,
    largest_within,
    operating_point,
    spill_batches,
)
from ..cost_model.transformer import (
    DecoderShape,
    TrainingRun,
    decoder_shape,
    inference_energy,
    printed_inference_energy,
    printed_training_energy,
    training_energy,
    weight_bytes,
)
from .as_run import as_run
from .backend import Backend
from .backend_onnx import OnnxBackend
from .decode_phase import Decoder
from .load import load
from .prediction import Prediction
from .workload import workload_for

FORMAT = 1
TOKENS = 256
OVERHEAD = 0.1
"""The share of memory that is neither weights nor caches unless told: what vLLM leaves by default (gpu_memory_utilization 0.9)."""

UNITS = {
    "latency": "seconds for a token",
    "arrivals": "requests a second",
    "tokens": "the new tokens of a request",
    "memory": "bytes",
}

NOTES = (
    "Decode steps only: what a request's prefill costs is what `szilard estimate --shape 1xLENGTH` says.",
    "Every step is priced at this context, and as the ops of the trace: a serving engine's own kernels are fewer and larger.",
)


@dataclass(frozen=True)
class Asked:
    """What the user wants to know, checked. `latency` [s] a token and `arrivals` [1/s] are None where they are no limit; `tokens` are those
    of a request; `memory` and `overhead` [B] are None for the device's own and a tenth of it."""

    context: int
    latency: float | None = None
    arrivals: float | None = None
    tokens: int = TOKENS
    memory: float | None = None
    overhead: float | None = None

    def __post_init__(self) -> None:
        if self.context < 1:
            raise InputError(
                f"--context {self.context} is no context; give the positions in the cache, a whole number above zero."
            )
        for name, unit in UNITS.items():
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"--{name} {value:g} is no limit; give {unit}, a number above zero.")
        if self.overhead is not None and not 0 <= self.overhead < math.inf:
            raise InputError(f"--overhead {self.overhead:g} is no amount of memory; give bytes, zero or more.")


@dataclass
class Prices:
    """Operating points by batch, each priced once by `price`."""

    decoder: Decoder
    device: Device
    price: Callable[[Net], Prediction]
    shapes: Callable[[int], Mapping[str, tuple[int, ...]]]
    known: dict[int, OperatingPoint] = field(default_factory=dict)
    costs: dict[int, Cost] = field(default_factory=dict)

    def net(self, batch: int) -> Net:
        """The net of one step."""
        return self.decoder.net(self.shapes(batch))

    def __call__(self, batch: int) -> OperatingPoint:
        """The point of a batch."""
        if batch not in self.known:
            net = self.net(batch)
            self.costs[batch] = self.price(net).total
            self.known[batch] = operating_point(batch, net, self.costs[batch])
        return self.known[batch]


def serve_limits(
    model: Any, *, target: str | Path, asked: Asked, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """The batches at which `model` can be served on `target`: {"memory", "batches", "points", "paper", "arrivals", ...} in J, s and B, all
    modelled. Of a transformers folder only the configuration is read. Raises InputError for a model that is no causal decoder, weights
    that do not fit, a latency that one sequence misses, and arrivals that the device cannot serve.
    """
    device = load_device(target)
    memory = asked.memory or device.values.get("capacity.memory")
    if memory is None:
        raise InputError(f"The device profile {device.name} does not say how much memory it has; give --memory BYTES.")
    loaded = load(model, task="decode" if str(model).startswith("hf:") else None)
    program = loaded.program
    device = device.used_by(program.runtime)
    _check_axes(program)
    backend: Backend
    if program.runtime == "torch":
        from .backend_torch import TorchBackend

        backend = TorchBackend(program)
    else:
        backend = OnnxBackend(program.sample)

    def phase(batch: int) -> Phase:
        one = Phase(f"{batch}x1@{asked.context}", {"*": (batch, 1)}, 1.0, asked.context)
        return workload_for(program, Workload((one,))).phases[0]

    said = f"{program.source} cannot decode with {asked.context} positions in a cache"
    runs = as_run(program, backend, device, program.graph)
    made, reason = runs.decoder(phase(1), said)
    priced = partial(runs.priced, reason=reason, name="decode", unseen=made.unseen)
    prices = Prices(made, device, priced, lambda batch: phase(batch).shapes)
    caches, one = prices.decoder.caches, prices.net(1)
    shape, weights = decoder_shape(one, caches), weight_bytes(one, caches)
    overhead = OVERHEAD * memory if asked.overhead is None else asked.overhead
    fits = largest_batch(memory, weights, overhead, cache_bytes(caches))
    progress(f"pricing batches of up to {fits}")
    limit = fits if asked.latency is None else largest_within(prices, fits, asked.latency)
    if not limit:
        raise InputError(
            f"One sequence alone takes {prices(1).seconds:.3g} s a token on {device.name} (modelled), longer than --latency "
            f"{asked.latency:g}; give a longer one, or a faster --target."
        )
    best = cheapest(prices, limit, spill_batches(one, device))
    table = [prices(batch) for batch in sorted({*doubling(fits), limit, best.batch})]
    within = [point for batch, point in sorted(prices.known.items()) if batch <= limit]
    total = prices.costs[best.batch]
    return {
        "format": FORMAT,
        "model": program.source,
        "target": device.name,
        "context": asked.context,
        "label": "modelled",
        "seconds_label": total.label,
        "at_least": total.at_least,
        "unpriced": list(total.unpriced),
        "rests_on": provenance_shares([(1.0, total)], device),
        "decoder": {**asdict(shape), "dtype": caches[0].dtype, "positions": [cache.positions for cache in caches]},
        "memory": {
            "capacity": memory, "weights": weights, "overhead": overhead, "cache_per_sequence": cache_bytes(caches), "largest_batch": fits,
        },
        "limits": {"latency": asked.latency, "largest_batch": limit},
        "batches": [_row(point, device) for point in table],
        "points": {
            "fewest_joules": _row(best, device),
            "lowest_latency": _row(prices(1), device),
            "most_tokens": _row(max(within, key=lambda point: point.tokens_per_second), device),
        },
        "paper": _paper(shape, prices, best, limit, asked.context, weights),
        "arrivals": None if asked.arrivals is None else _arrivals(asked, asked.arrivals, within, limit, prices),
        "notes": [*program.notes, *loaded.notes, *runs.notes, *priced(one).notes, *NOTES],
    }  # fmt: skip


def _check_axes(program: Program) -> None:
    """Raises InputError unless some input has a free axis of positions and the batch is free too."""
    why = "".join(f" ({note.rstrip('.')})" for note in program.notes[:1])
    free = next((axes for axes in program.dynamic.values() if 1 in axes), None)
    if free is None:
        inputs = ", ".join(f"{name} {list(array.shape)}" for name, array in program.sample.items())
        raise InputError(
            f"{program.source} cannot be served: none of its inputs ({inputs}) has a second axis, of positions, that may change{why}; "
            "give a causal language model, traced or exported with that axis free."
        )
    if 0 not in free:
        raise InputError(
            f"{program.source} cannot be served at other batches: the first axis of its inputs is fixed{why}; trace or export it with "
            "that axis free."
        )


def _row(point: OperatingPoint, device: Device) -> dict[str, Any]:
    return {
        "batch": point.batch,
        "seconds_per_token": point.seconds,
        "joules_per_token": point.joules,
        "static_joules_per_token": point.static,
        "tokens_per_second": point.tokens_per_second,
        "trilemma": point.trilemma,
        "trilemma_floor": point.trilemma_floor(device),
    }


def _paper(
    shape: DecoderShape, prices: Prices, best: OperatingPoint, limit: int, context: int, weights: float
) -> dict[str, Any]:
    """B* (Theorem 4.2), its point within `limit` (Remark 4.1), and the decompositions of eq. 11 and 13 a token: corrected and as
    printed."""
    device, caches = prices.device, prices.decoder.caches
    unit, times = device.unit(f"{caches[0].dtype}.tensor")
    flop = times * device.values[f"flop.{unit}"]
    byte, link = device.values["byte.memory"], device.values["link"]
    heuristic = heuristic_batch(shape.parameters, context, shape.head_dim)
    taken = prices(min(max(1, math.floor(heuristic)), limit))
    seen = tuple(cache.positions for cache in caches)
    run = TrainingRun(tokens=context, sequence=context, batch=1, windows=seen)
    trained = training_energy(shape, run, flop, byte, link)
    printed = printed_training_energy(shape, shape.parameters, 1.0, context, context, math.inf, flop, 0.0)
    per_token = ("arithmetic", "attention")
    return {
        "heuristic_batch": heuristic,
        "heuristic_point": _row(taken, device),
        "heuristic_over_fewest": taken.joules / best.joules,
        "inference": {
            "corrected": inference_energy(shape, weights, cache_bytes(caches), sum(seen) / len(seen), best.batch, flop, byte),
            "printed": printed_inference_energy(shape.parameters, context, shape.head_dim, flop, byte, byte),
        },
        "training": {
            "corrected": {term: trained[term] / context for term in per_token},
            "printed": {term: printed[term] for term in per_token},
        },
    }


def _arrivals(asked: Asked, arrivals: float, within: list[OperatingPoint], limit: int, prices: Prices) -> dict[str, Any]:
    """Continuous batching of requests that arrive at random, and the batches of eq. 20 and 21."""
    static = prices.device.values["static"]
    found = occupancy(within, arrivals, asked.tokens, static)
    gathered = optimum = None
    if asked.latency is not None:
        longest = asked.latency * asked.tokens
        gathered = gathered_batch(arrivals, longest, lambda batch: asked.tokens * prices(batch).seconds, limit)
        marginal = marginal_joules([prices(1), prices(limit)], asked.tokens)
        optimum = printed_optimal_batch(static, longest, marginal) if marginal > 0 else None
    return {
        "requests_per_second": arrivals,
        "tokens_per_request": asked.tokens,
        "largest_requests_per_second": largest_arrivals(within, asked.tokens),
        **asdict(found),
        "eq_20_batch": gathered,
        "eq_21_batch": optimum,
    }
