"""Attention on a GPU in every way there is to compute it: operands with the structure of trained heads, the ways, and a clock for them."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from types import ModuleType

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from ..kernels.spectral_attention import triton as kernels
from ..kernels.spectral_attention.codebook import calibrate
from ..kernels.spectral_attention.tiling import leaves_for

OURS = "szilard"
FORMS = {OURS: 1, "szilard, twice the queries a tile": 2}
"""Ways of ours and their tiles of queries, in tiles of keys. Twice the queries read each key half as often, and choose less finely."""
BACKENDS = {
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "Flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
CLUSTERS = 48
STRUCTURES = 4
"""Sets of centres that the KV heads take in turn: each needs a codebook of its own, made on the host."""
CALIBRATION = 4096
MOST_LEAVES = 512
"""Beyond it the assignment costs more than finer leaves gain: sqrt N leaves are what the source asks for."""
Run = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Case:
    """One site: `length` queries and keys, `heads` query heads of `width` columns that share `kv_heads`, and the share of tiles taken
    exactly by the sparse form, in tiles of `tile` rows."""

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
        return max(1, -int(-self.share * self.length // self.tile))

    @property
    def scale(self) -> float:
        return self.width**-0.5


def clustered(case: Case, seed: int, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
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
    """What computes the case, by name: ours where there is a kernel of it, the back ends of torch's SDPA, FlexAttention. With `gradients`
    each call runs forward and backward."""
    operands = [x.requires_grad_(gradients) for x in clustered(case, 2, device)]
    shared = case.heads != case.kv_heads
    query, key, value = operands
    dense = partial(scaled_dot_product_attention, query, key, value, is_causal=case.causal, scale=case.scale, enable_gqa=shared)
    found: dict[str, Run] = {}
    if not case.causal:
        books = codebooks(case, device)
        found |= {name: partial(spectral, kernels, case, operands, books, times) for name, times in FORMS.items()}
    if device == "cpu":
        found["math"] = dense
    else:
        found |= {name: partial(_with_backend, backend, dense) for name, backend in BACKENDS.items()}
    if flex:
        found["FlexAttention"] = _flex(case, operands)
    if gradients:
        found = {name: partial(_and_back, run, operands) for name, run in found.items()}
    return found


def spectral(
    form: ModuleType, case: Case, operands: Sequence[torch.Tensor], books: tuple[torch.Tensor, torch.Tensor], times: int = 1
) -> torch.Tensor:
    """Spectral attention by the module `form` (its reference, or its kernels), with `times` as many queries in a tile as keys."""
    query, key, value = operands
    output: torch.Tensor = form.spectral_attention(
        query, key, value, *books, scale=case.scale, tile=times * case.tile, budget=case.budget, key_tile=case.tile
    )
    return output


def _with_backend(backend: SDPBackend, run: Run) -> torch.Tensor:
    with sdpa_kernel(backend), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run()


def _flex(case: Case, operands: list[torch.Tensor]) -> Run:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    query, key, value = operands
    torch.compiler.reset()  # It compiles a function for eight shapes, and then no more.
    mask = None
    if case.causal:
        mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, case.length, case.length, query.device)
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda: compiled(query, key, value, block_mask=mask, scale=case.scale, enable_gqa=case.heads != case.kv_heads)


def _and_back(run: Run, operands: list[torch.Tensor]) -> torch.Tensor:
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
