"""What each option of each site does to the model's outputs, measured on the scoring half of the calibration data.

The change an option makes at its site is simulated with the kernel's plain reference and added to the running model, so
that one session serves every site and every format, on either runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch

from ..cost_model.cpu_features import products_saturate
from ..cost_model.errors import InputError
from ..cost_model.net import Net
from ..cost_model.sites import LinearSite
from ..cost_model.weight_structure import Estimate, estimates
from ..kernels.low_rank.factors import SHARES, damped_gram, more_accurate, prepare_low_rank
from ..kernels.low_rank.factors import simulate as simulate_low_rank
from ..kernels.quantized_linear.formats import Prepared, prepare_group
from ..kernels.quantized_linear.half_formats import HALF_FORMATS
from ..kernels.quantized_linear.reference import simulate
from .backend import Arrays, Group, Probe
from .calibration_data import relative_error
from .head_scores import HeadScores
from .padding import kept_tokens, token_rows
from .score_range import out_of_range

# Rows of activations against which weights are rounded, and rows that one probe run spends. Twice as many moved no error of MiniLM by
# more than a tenth.
ROUNDING_ROWS = 2048
PROBE_ROWS = 1024
# Captured activations are held for as many groups at a time as fit in this.
CAPTURE_BYTES = 512 << 20


@dataclass(frozen=True)
class Score:
    """`error`: relative squared error of the model's outputs with this option alone. `prepared`: site id -> what
    the rewrite needs (`Prepared` of a linear, `SparsePrepared` of an attention). `heads`: what was found of those of an attention.
    `structure`: what other structures of the weights take. `refused`: why none of that could be had, "" if it was. `remembered`: the
    error is of an earlier run, and nothing is prepared."""

    error: float
    prepared: Mapping[str, Any]
    heads: HeadScores | None = None
    structure: tuple[Estimate, ...] = ()
    refused: str = ""
    remembered: bool = False

    @property
    def refusal(self) -> str:
        """Why the option cannot be taken after all, "" if it can."""
        return self.refused or (self.heads.refusal if self.heads else "")


def linear_weight(net: Net, site: LinearSite) -> np.ndarray:
    """The weight of a linear site as float32 [K, N]."""
    array = net.array(site.weight)
    assert array is not None
    array = np.asarray(array, np.float32)
    if site.transposed:
        array = array.T
    # A copy: constants may be views of read-only memory, which torch does not take.
    return np.array(array.reshape(site.in_features, site.out_features), order="C")


def linear_bias(net: Net, site: LinearSite) -> np.ndarray | None:
    """The bias of a linear site as float32 [N], None without one."""
    array = net.array(site.bias) if site.bias else None
    return None if array is None else np.array(array, np.float32).reshape(-1)


def representative(samples: Sequence[Arrays]) -> tuple[Arrays, ...]:
    """Samples spread over the whole set whose rows (tokens, or vectors of the first input) add up to about `PROBE_ROWS`; at least one."""
    firsts = [next(iter(sample.values())) for sample in samples]
    sizes = [max(1, prod(first.shape[:-1]) if first.dtype.kind == "f" else first.size) for first in firsts]
    count = max(1, min(len(samples), round(PROBE_ROWS * len(samples) / sum(sizes))))
    return tuple(samples[i] for i in np.linspace(0, len(samples) - 1, count).round().astype(int))


def score_linears(
    wanted: Mapping[Group, Iterable[str]],
    net: Net,
    probe: Probe,
    samples: Sequence[Arrays],
    progress: Callable[[str], None] = lambda _: None,
    keep: Callable[[tuple[str, str], Score], None] = lambda _, __: None,
) -> dict[tuple[str, str], Score]:
    """(group id, format) -> Score for the formats wanted of each group of linear sites, all sites of a group changed together; each is
    given to `keep` as soon as it is known."""
    probed = representative(samples)
    reference = [probe.run(sample, {}) for sample in probed]
    scores: dict[tuple[str, str], Score] = {}
    for groups in chunks(tuple(wanted), _captured_bytes):
        read = list(dict.fromkeys(group.linears[0].x for group in groups))
        rows = _rows(probe, samples, read)
        # Padding too: what float16 does not hold there would reach the tokens as NaN.
        halves = any(action in HALF_FORMATS for group in groups for action in wanted[group])
        seen = _rows(probe, samples, read, padding=True) if halves else rows
        captured = [probe.capture(sample, read) for sample in probed]
        for group in groups:
            sites = group.linears
            x = sites[0].x
            weights, biases = [linear_weight(net, s) for s in sites], [linear_bias(net, s) for s in sites]
            for action in sorted(wanted[group]):
                progress(f"error of {action} at {group.id}")
                if beyond := out_of_range(action, weights, biases, [seen[x], *(found[x] for found in captured)]):
                    scores[group.id, action] = Score(float("inf"), {}, refused=beyond)
                    continue
                try:
                    prepared = prepare_linear(action, weights, biases, rows[x])
                except InputError as fault:
                    if action not in SHARES:
                        raise
                    scores[group.id, action] = Score(float("inf"), {}, refused=str(fault))
                    continue
                outputs = [
                    probe.run(
                        sample,
                        {
                            s.output: site_change(p, w, b, found[x])
                            for s, p, w, b in zip(sites, prepared, weights, biases, strict=True)
                        },
                    )
                    for sample, found in zip(probed, captured, strict=True)
                ]
                error = relative_error(outputs, reference, probed)
                structure = _structure(action, weights, rows[x])
                found = {s.id: p for s, p in zip(sites, prepared, strict=True)}
                scores[group.id, action] = Score(error, found, structure=structure)
                keep((group.id, action), scores[group.id, action])
    return scores


def prepare_linears(
    wanted: Mapping[Group, Iterable[str]],
    net: Net,
    probe: Probe,
    samples: Sequence[Arrays],
    progress: Callable[[str], None] = lambda _: None,
) -> dict[tuple[str, str], dict[str, Prepared]]:
    """(group id, format) -> site id -> what the rewrite needs, as `score_linears` makes it, where the error is known already."""
    made: dict[tuple[str, str], dict[str, Prepared]] = {}
    for groups in chunks(tuple(wanted), _captured_bytes):
        rows = _rows(probe, samples, list(dict.fromkeys(group.linears[0].x for group in groups)))
        for group in groups:
            sites = group.linears
            weights, biases = [linear_weight(net, s) for s in sites], [linear_bias(net, s) for s in sites]
            for action in sorted(wanted[group]):
                progress(f"rounding to {action} at {group.id}")
                prepared = prepare_linear(action, weights, biases, rows[sites[0].x])
                made[group.id, action] = {s.id: p for s, p in zip(sites, prepared, strict=True)}
    return made


def _structure(action: str, weights: Sequence[np.ndarray], rows: np.ndarray) -> tuple[Estimate, ...]:
    """What each structure of the weights takes, once for all ranks."""
    if action not in SHARES or more_accurate(action):
        return ()
    try:
        return estimates(np.concatenate(weights, axis=1), damped_gram(rows))
    except InputError:
        return ()


def prepare_linear(
    action: str, weights: Sequence[np.ndarray], biases: Sequence[np.ndarray | None], rows: np.ndarray | None
) -> list[Prepared]:
    """What the sites of a group become in a format or, which needs them, at a rank, for inputs `rows` [M, K]."""
    if action in SHARES:
        assert rows is not None, "a low rank is one for inputs"
        return prepare_low_rank(action, weights, biases, rows)
    return prepare_group(action, weights, biases, rows, narrow=products_saturate())


def chunks(groups: Sequence[Group], size: Callable[[Group], int]) -> Iterator[list[Group]]:
    """Groups of which what is captured, `size` bytes each, fits together in `CAPTURE_BYTES`: a run of the model serves all of them."""
    chunk: list[Group] = []
    held = 0
    for group in groups:
        if chunk and held + size(group) > CAPTURE_BYTES:
            yield chunk
            chunk, held = [], 0
        chunk.append(group)
        held += size(group)
    if chunk:
        yield chunk


def _captured_bytes(group: Group) -> int:
    return 4 * group.linears[0].in_features * (ROUNDING_ROWS + PROBE_ROWS)


def _rows(probe: Probe, samples: Sequence[Arrays], read: Sequence[str], padding: bool = False) -> dict[str, np.ndarray]:
    """Value -> float32 [at most `ROUNDING_ROWS`, K], the same share of rows from every sample, of `padding` only where it is asked for."""
    parts: dict[str, list[np.ndarray]] = {value: [] for value in read}
    share = -(-ROUNDING_ROWS // len(samples))
    for sample in samples:
        kept = None if padding else kept_tokens(sample)
        for value, found in probe.capture(sample, read).items():
            flat = token_rows(found, kept)
            parts[value].append(flat[np.linspace(0, len(flat) - 1, min(share, len(flat))).astype(int)].astype(np.float32))
    return {value: np.concatenate(found) for value, found in parts.items()}


def simulate_linear(prepared: Prepared, rows: torch.Tensor) -> torch.Tensor:
    """What a linear in a format or at a rank gives for `rows` [M, K]: [M, N], float32."""
    return simulate_low_rank(prepared, rows) if prepared.action in SHARES else simulate(prepared, rows)


def site_change(prepared: Prepared, weight: np.ndarray, bias: np.ndarray | None, x: np.ndarray) -> np.ndarray:
    """What the option adds to the output of a site that reads `x` [..., K]: [..., N]."""
    rows = torch.from_numpy(np.ascontiguousarray(x.reshape(-1, weight.shape[0]), dtype=np.float32))
    dense = rows @ torch.from_numpy(weight)
    if bias is not None:
        dense = dense + torch.from_numpy(bias)
    return (simulate_linear(prepared, rows) - dense).numpy().reshape(*x.shape[:-1], weight.shape[1])
