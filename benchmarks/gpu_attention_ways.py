"""Attention on a GPU in every way there is to compute it: operands with the structure of trained heads, the ways, and a clock for them."""

from __future__ import annotations

import time
import warnings
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from ..kernels.spectral_attention import causal, reference, triton_causal
from ..kernels.spectral_attention import triton as kernels
from ..kernels.spectral_attention.causal_prepare import CausalPrepared
from ..kernels.spectral_attention.codebook import calibrate
from ..kernels.spectral_attention.tiling import leaves_for

OURS = "szilard"
FORMS = {OURS: 1, "szilard, twice the queries a tile": 2}
"""Ways of ours and their tiles of queries, in tiles of keys. Twice the queries read each key half as often, and choose less finely. The
causal form, whose tiles of keys are smaller, has one."""
BACKENDS = {
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "Flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
CLUSTERS = 48
STRUCTURES = 4
"""Sets of centres that the KV heads take in turn: each needs a codebook of its own, made on the host."""
CALIBRATION = 4096
LEAST_CAUSAL = 2
"""Exact tiles without which a tile of queries would not have both the first one and the one before it."""
MOST_LEAVES = 512
"""Beyond it the assignment costs more than finer leaves gain: sqrt N leaves are what the source asks for."""
Run = Callable[[], torch.Tensor]
Operands = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """One site: `length` queries and keys, `heads` query heads of `width` columns that share `kv_heads`, and the share of the keys that the
    sparse form takes exactly: in tiles of `tile` rows, or where it is `causal` of those that a query may see, in tiles of the default
    layout."""

    length: int
    width: int
    heads: int
    kv_heads: int
    causal: bool
    share: float
    tile: int = 64
    dtype: str = "bfloat16"

    @property
    def name(self) -> str:
        kind = "causal" if self.causal else "full"
        return f"{kind} {self.heads}/{self.kv_heads} heads of {self.width}, {self.length} keys"

    @property
    def budget(self) -> int:
        """Tiles of keys that a tile of queries attends to exactly."""
        if self.causal:
            budgets = range(LEAST_CAUSAL, causal.LAYOUT.tiles(self.length))
            return LEAST_CAUSAL + max(0, bisect_right(budgets, self.share, key=self.causal_density) - 1)
        return max(1, -int(-self.share * self.length // self.tile))

    @property
    def density(self) -> float:
        """The share of the pairs of a query and a key that it may see which are exact."""
        if self.causal:
            return self.causal_density(self.budget)
        return min(1.0, self.budget * self.tile / self.length)

    def causal_density(self, budget: int) -> float:
        """`density` with that budget."""
        return CausalPrepared((budget,), self.scale).density(self.length)

    @property
    def scale(self) -> float:
        return self.width**-0.5


def clustered(case: Case, seed: int, device: str) -> Operands:
    """Query [1, H, N, D], key and value [1, Hkv, N, D] around `CLUSTERS` centres that all seeds share, in clusters of unequal size.

    A logit within a cluster lies about 8 above one between clusters, and the noise around a centre moves it by about 3: a query spreads its
    weight over a tenth of the keys, as in trained heads. Never plain normal vectors: no structure is there to be found."""
    fixed = torch.Generator().manual_seed(case.width)
    random = torch.Generator(device).manual_seed(seed)
    group, length = case.heads // case.kv_heads, case.length
    centres, values = (torch.randn((STRUCTURES, CLUSTERS, case.width), generator=fixed).to(device) for _ in "kv")
    share = torch.arange(1, CLUSTERS + 1, device=device, dtype=torch.float32).rsqrt()
    size = (8 / case.width**0.5) ** 0.5

    def around(heads: int, repeats: int) -> tuple[torch.Tensor, torch.Tensor]:
        member = torch.multinomial(share.repeat(heads, 1), length, replacement=True, generator=random)
        noise = 0.6 * torch.randn((heads, length, case.width), generator=random, device=device)
        structure = (torch.arange(heads, device=device)[:, None] // repeats) % STRUCTURES
        return size * (centres[structure, member] + noise), values[structure, member]

    query, _ = around(case.heads, group)
    key, value = around(case.kv_heads, 1)
    value = value + 0.5 * torch.randn(value.shape, generator=random, device=device)
    query, key, value = (x[None].to(getattr(torch, case.dtype)) for x in (query, key, value))
    return query, key, value


def codebooks(case: Case, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Codebooks of queries and of keys, from another draw than the one that is timed."""
    leaves = min(MOST_LEAVES, leaves_for(case.length, case.tile))
    group = case.heads // case.kv_heads
    of_queries, of_keys = (torch.from_numpy(x) for x in _codebooks(case.width, leaves))
    shared = [head // group % STRUCTURES for head in range(case.heads)]
    return of_queries[shared].to(device), of_keys[[head % STRUCTURES for head in range(case.kv_heads)]].to(device)


@lru_cache(maxsize=64)
def _codebooks(width: int, leaves: int) -> tuple[np.ndarray, np.ndarray]:
    drawn = clustered(Case(CALIBRATION, width, STRUCTURES, STRUCTURES, False, 0.0, dtype="float32"), 1, "cpu")
    query, key = (np.stack([calibrate(head, leaves) for head in x[0].numpy()]) for x in drawn[:2])
    return query, key


def ways(case: Case, device: str, *, flex: bool, gradients: bool = False) -> dict[str, Run]:
    """What computes the case, by name: ours, the back ends of torch's SDPA, FlexAttention. With `gradients`
    each call runs forward and backward."""
    operands = clustered(case, 2, device)
    for each in operands:
        each.requires_grad_(gradients)
    shared = case.heads != case.kv_heads
    query, key, value = operands
    dense = partial(scaled_dot_product_attention, query, key, value, is_causal=case.causal, scale=case.scale, enable_gqa=shared)
    found: dict[str, Run] = {name: partial(form, operands) for name, form in forms(case, device).items()}
    if device == "cpu":
        found["math"] = dense
    else:
        found |= {name: partial(_with_backend, backend, dense) for name, backend in BACKENDS.items()}
    if flex:
        found["FlexAttention"] = _flex(case, operands)
    if gradients:
        found = {name: partial(_and_back, run, operands) for name, run in found.items()}
    return found


def forms(case: Case, device: str, *, exact: bool = False) -> dict[str, Callable[[Operands], torch.Tensor]]:
    """Ways of ours by name, as functions of the operands: by the kernels, or if `exact` by the plain torch that is their reference."""
    if case.causal:
        whole = causal.causal_spectral_attention if exact else triton_causal.causal_spectral_attention
        return {OURS: lambda operands: whole(*operands, scale=case.scale, budget=case.budget)}
    books, module = codebooks(case, device), reference if exact else kernels

    def full(times: int, operands: Operands) -> torch.Tensor:
        output: torch.Tensor = module.spectral_attention(
            *operands, *books, scale=case.scale, tile=times * case.tile, budget=case.budget, key_tile=case.tile
        )
        return output

    return {name: partial(full, times) for name, times in FORMS.items()}


def _with_backend(backend: SDPBackend, run: Run) -> torch.Tensor:
    with sdpa_kernel(backend), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run()


def _flex(case: Case, operands: Operands) -> Run:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    query, key, value = operands
    torch.compiler.reset()  # It compiles a function for eight shapes, and then no more.
    mask = None
    if case.causal:
        mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, case.length, case.length, query.device)
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda: compiled(query, key, value, block_mask=mask, scale=case.scale, enable_gqa=case.heads != case.kv_heads)


def _and_back(run: Run, operands: Operands) -> torch.Tensor:
    output = run()
    torch.autograd.grad(output, operands, output.detach())
    return output


def seconds(
    runs: Mapping[str, Run], device: str, rounds: int = 5, target: float = 0.05
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """(seconds of a call of each way, by round; why a way was refused). Ways run in turn, warmed, each as a CUDA graph where it can be
    captured: no way pays for its launches on the host. On a CPU one round by the clock."""
    ready, refused = {}, {}
    for name, run in runs.items():
        try:
            run()
            ready[name] = captured(run) if device != "cpu" else run
        except Exception as fault:
            refused[name] = " ".join(str(fault).split())[:200]
            continue
    once = {name: _timed(run, device, 1) for name, run in ready.items()}
    found: dict[str, list[float]] = {name: [] for name in ready}
    if device == "cpu":
        return {name: [value] for name, value in once.items()}, refused
    rounds = rounds if max(once.values(), default=0.0) < 0.1 else 3
    for turn in range(rounds):
        names = list(ready)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            repeats = max(1, min(50, int(target / max(once[name], 1e-6))))
            found[name].append(_timed(ready[name], device, repeats) / repeats)
    return found, refused


def captured(run: Run) -> Callable[[], object]:
    """The replay of a CUDA graph of `run`, or `run` itself where it waits for the host or takes memory in a way that graphs do not hold."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            run()
    except RuntimeError:
        torch.cuda.synchronize()
        return run
    return graph.replay


def _timed(run: Callable[[], object], device: str, repeats: int) -> float:
    if device == "cpu":
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        return time.perf_counter() - start
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(repeats):
        run()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1e3
