"""The tables of the source's Section 11 again: what is printed there, its algorithm as printed, and the operator of this project.

`python -P -m szilard.benchmarks.paper_tables [--part table6 figure2 figure3 degradation]`. Everything but the column "paper" is measured in
this run. Three kinds of heads: planted clusters (sqrt(N) normal centres; queries, keys and values deviate by `SPREAD`), uniformly random
embeddings, and, in the degradation table, the heads of a trained MiniLM. Codebooks come from other draws or other text.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.sparse.linalg import aslinearoperator
from torch.nn.functional import scaled_dot_product_attention

from ..cost_model.spectral import attention_walk, spectrum
from ..cost_model.spectral_evidence import evidence, printed_advice
from ..cost_model.timing import measure_interleaved
from ..kernels.spectral_attention.paper import k_means, paper_attention
from ..kernels.spectral_attention.prepare import SparsePrepared, prepare
from ..kernels.spectral_attention.torch_module import build
from ..kernels.spectral_attention.walk import operator_walk
from ..models.standard_library import documented, stable_order, topics
from .attention_accuracy import naive, quality, trained_heads

RESULTS = Path(__file__).parent / "results"
HEADS, WIDTH, SPREAD = 4, 64, 0.3
TILE, KEY_TILE, DENSITY = 64, 32, 0.10
PARTS = ("table6", "figure2", "figure3", "degradation")
PRINTED_TABLE = {
    128: (0.17, 0.8134, 0.9535),
    256: (0.41, 1.1678, 0.9276),
    512: (0.68, 1.5747, 0.8928),
    1024: (0.45, 2.3218, 0.8675),
    2048: (2.01, 3.2712, 0.8176),
    4096: (2.01, 4.2556, 0.7601),
}
"""Tokens -> speed against naive dense attention, relative error, cosine (Table 6)."""
PRINTED_CLUSTERS = {16: (1.2, 0.89), 32: (1.6, 0.82), 64: (2.0, 0.76), 128: (1.7, 0.71)}
PRINTED_SAMPLES = {32: (2.3, 0.68), 64: (2.0, 0.76), 128: (1.6, 0.81), 256: (1.2, 0.85)}
"""Clusters, samples -> speed, cosine at 4,096 tokens (Figure 3)."""
Heads = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def planted(seed: int, length: int, spread: float = SPREAD, kind: str = "planted") -> Heads:
    """Query, key, value [1, 4, length, 64] around sqrt(length) centres that all seeds share, or "uniform" in a cube of that variance."""
    fixed, random = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    shape = (1, HEADS, length, WIDTH)
    if kind == "uniform":
        query, key, value = (math.sqrt(12) * (torch.rand(shape, generator=random) - 0.5) for _ in range(3))
        return query, key, value
    count = round(math.sqrt(length))
    centres = torch.randn(2, HEADS, count, WIDTH, generator=fixed)
    member = torch.randint(0, count, (HEADS, length, 1), generator=random).expand(-1, -1, WIDTH)
    query, key, value = (
        (centres[which].gather(1, member) + spread * torch.randn(shape[1:], generator=random))[None] for which in (0, 0, 1)
    )
    return query, key, value


def ours(operands: Heads, calibration: Heads, density: float = DENSITY) -> SparsePrepared:
    """The default operator for that length."""
    query, key, _ = calibration
    length, scale = operands[1].shape[2], query.shape[-1] ** -0.5
    return prepare(query[0].numpy(), key[0].numpy(), length=length, scale=scale, tile=TILE, density=density, key_tile=KEY_TILE)


def printed(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, clusters: int, samples: int) -> torch.Tensor:
    """Algorithm 2 with N x N masks, head by head: the edges and the errors of the printed form."""
    scale = query.shape[-1] ** -0.5
    heads = [
        paper_attention(*(x[:, head, None] for x in (query, key, value)), scale=scale, clusters=clusters, samples=samples)
        for head in range(query.shape[1])
    ]
    return torch.cat(heads, dim=1)


def printed_fast(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, clusters: int, samples: int) -> torch.Tensor:
    """The same work without N x N masks, to be timed: k-means, the block of each cluster, and sampled keys gathered. A sample may fall
    into the cluster of its query."""
    scale, length = query.shape[-1] ** -0.5, query.shape[2]
    projection = torch.randn(query.shape[3], min(query.shape[3], 64)) / 8
    member = k_means(query @ projection, clusters, 10)[0]
    output = torch.empty_like(value)
    for head in range(query.shape[1]):
        q, k, v = (x[0, head] for x in (query, key, value))
        for cluster in member[head].unique():
            mine = (member[head] == cluster).nonzero()[:, 0]
            drawn = torch.randint(0, length, (len(mine), samples))
            local = q[mine] @ k[mine].T
            sampled = (k[drawn] @ q[mine][..., None])[..., 0]
            weights = (scale * torch.cat([local, sampled], dim=1)).softmax(-1)
            output[0, head, mine] = weights[:, : len(mine)] @ v[mine] + (weights[:, None, len(mine) :] @ v[drawn])[:, 0]
    return output


def timed(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, in turns."""
    return {name: timing.median for name, timing in measure_interleaved(runs, rounds=rounds, warmups=1).items()}


def compared(operands: Heads, made: SparsePrepared, clusters: int, samples: int, rounds: int) -> dict[str, float]:
    """Speed against naive dense attention, relative error and cosine of the printed form and of the default."""
    dense, module = naive(*operands), build(made)
    seconds = timed(
        {
            "naive": partial(naive, *operands),
            "printed": partial(printed_fast, *operands, clusters, samples),
            "default": partial(module, *operands),
        },
        rounds,
    )
    row = {"naive_seconds": seconds["naive"]}
    for name, output in (("printed", printed(*operands, clusters, samples)), ("default", module(*operands))):
        found = quality([output], [dense])
        row |= {f"{name}_speed": seconds["naive"] / seconds[name], f"{name}_error": found.error, f"{name}_cosine": found.cosine}
    return row


def _two(heads: Heads) -> Heads:
    query, key, value = (x[:, :2] for x in heads)
    return query, key, value


def table6(rounds: int) -> dict[str, Any]:
    """Six lengths, sqrt(N) clusters and samples, on planted clusters and on uniform embeddings."""
    found: dict[str, Any] = {}
    for kind in ("planted", "uniform"):
        for length in PRINTED_TABLE:
            operands, root = planted(1, length, kind=kind), round(math.sqrt(length))
            row = compared(operands, ours(operands, planted(2, length, kind=kind)), root, root, rounds)
            found[f"{kind} {length}"] = row
    return found


def figure2(_: int) -> dict[str, Any]:
    """Leading eigenvalues of the symmetric Laplacian of dense attention, of the printed form and of the default, and what else is known of
    the three walks: one planted head of 1,024 tokens."""
    query, key, _value = (x[:, :1] for x in planted(1, 1024))
    made = ours((query, key, key), planted(2, 1024))
    dense = attention_walk((query[0, 0] * WIDTH**-0.5).numpy(), key[0, 0].numpy())
    weights = printed(query, key, torch.eye(1024)[None, None], 32, 32)[0, 0].double().numpy()
    walks = {
        "printed": (aslinearoperator(weights), int((weights > 0).sum())),
        "default": operator_walk(query[0, 0], key[0, 0], made, 0),
    }
    return {name: evidence(dense, walk, edges, 32).as_dict() for name, (walk, edges) in walks.items()}


def figure3(rounds: int) -> dict[str, Any]:
    """Clusters with 64 samples, and samples with 64 clusters, at 4,096 tokens; beside them the default at several densities."""
    operands, calibration = planted(1, 4096), planted(2, 4096)
    dense, found = naive(*operands), {}
    runs: dict[str, Callable[[], object]] = {"naive": partial(naive, *operands)}
    sizes = {f"{k} clusters": (k, 64) for k in PRINTED_CLUSTERS} | {f"{s} samples": (64, s) for s in PRINTED_SAMPLES}
    runs |= {name: partial(printed_fast, *operands, *size) for name, size in sizes.items()}
    modules = {f"{density:.0%} exact": build(ours(operands, calibration, density)) for density in (0.03, 0.05, 0.1, 0.2)}
    runs |= {name: partial(module, *operands) for name, module in modules.items()}
    seconds = timed(runs, rounds)
    outputs = {name: printed(*operands, *size) for name, size in sizes.items()}
    outputs |= {name: module(*operands) for name, module in modules.items()}
    for name, output in outputs.items():
        found[name] = {"speed": seconds["naive"] / seconds[name], **quality([output], [dense])._asdict()}
    return found


def degradation(_: int) -> dict[str, Any]:
    """Cluster quality Q at 1,024 tokens, what the printed tree advises at 4,096, and error and cosine of both forms, head by head."""
    cases = {
        f"planted, spread {spread:g}": (planted(1, 1024, spread), planted(2, 1024, spread)) for spread in (0.1, 0.3, 0.6, 1.0)
    }
    cases["uniform"] = planted(1, 1024, kind="uniform"), planted(2, 1024, kind="uniform")
    judged = "\n".join(sorted((text for _, _, text in documented()), key=stable_order))
    other = "\n".join(sorted(topics(), key=stable_order))
    for layer, (operands, calibration) in enumerate(zip(trained_heads(judged, 2), trained_heads(other, 8), strict=True)):
        cases[f"MiniLM layer {layer}"] = operands, calibration
    found = {}
    for name, (operands, calibration) in cases.items():
        operands, calibration = _two(operands), _two(calibration)
        dense = scaled_dot_product_attention(*operands)
        scale = operands[0].shape[-1] ** -0.5
        qualities = [
            spectrum(attention_walk((q * scale).numpy(), k.numpy()), 32).quality
            for q, k in zip(operands[0][0], operands[1][0], strict=True)
        ]
        row: dict[str, Any] = {"quality": float(np.mean(qualities)), "advice": printed_advice(float(np.mean(qualities)), 4096)}
        for form, output in (
            ("printed", printed(*operands, 32, 32)),
            ("default", build(ours(operands, calibration))(*operands)),
        ):
            row |= {f"{form}_{key}": value for key, value in quality([output], [dense])._asdict().items()}
        found[name] = row
    return found


def show(found: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    """The tables, the source's figures beside ours."""
    if rows := found.get("table6"):
        table = Table("tokens", "form", "speed", "rel. error", "cosine", title="Table 6: against naive dense attention")
        for name, row in rows.items():
            paper = PRINTED_TABLE[int(name.split()[1])]
            if name.startswith("planted"):
                table.add_row(name, "paper, as it says", *(f"{value:.2f}" for value in paper))
            for form in ("printed", "default"):
                table.add_row(name, form, *(f"{row[f'{form}_{key}']:.2f}" for key in ("speed", "error", "cosine")))
        console.print(table)
        for form in ("naive", "printed", "default"):
            ends = [_seconds(rows, form, length) for length in (1024, 4096)]
            console.print(f"{form}: time grows with N^{math.log(ends[1] / ends[0], 4):.2f} from 1,024 to 4,096 planted tokens")
    if rows := found.get("figure2"):
        table = Table("walk", "gap", "Q", "eigenvalues 2..9", "|sin Theta|", "rank", "edges", "excess nats", title="Figure 2b")
        for name, row in (("dense", rows["default"]), *rows.items()):
            own = row["dense" if name == "dense" else "sparse"]
            least = " ".join(f"{value:.3f}" for value in own["eigenvalues"][1:9])
            rest = ["", f"{own['effective_rank']:.0f}", f"{row['tokens'] ** 2}", ""] if name == "dense" else [
                f"{row['sin_theta']:.3f}", f"{own['effective_rank']:.0f}", f"{row['edges']}", f"{row['excess_free_energy_nats']:.3f}",
            ]  # fmt: skip
            table.add_row(name, f"{own['gap']:.4f}", f"{own['quality']:.3f}", least, *rest)
        console.print(table)
    if rows := found.get("figure3"):
        table = Table("4,096 planted tokens", "paper: speed, cosine", "speed", "rel. error", "cosine", title="Figure 3")
        for name, row in rows.items():
            size, kind = name.split()
            said = {"clusters": PRINTED_CLUSTERS, "samples": PRINTED_SAMPLES}.get(kind, {}).get(int(size.rstrip("%")))
            table.add_row(
                name if said else f"default, {name}", "{:.1f}, {:.2f}".format(*said) if said else "",
                *(f"{row[key]:.2f}" for key in ("speed", "error", "cosine")),
            )  # fmt: skip
        console.print(table)
    if rows := found.get("degradation"):
        table = Table("heads", "Q", "printed tree", "printed: error", "cosine", "default: error", "cosine", title="Degradation")
        for name, row in rows.items():
            forms = (f"{row[f'{form}_{key}']:.3f}" for form in ("printed", "default") for key in ("error", "cosine"))
            table.add_row(name, f"{row['quality']:.3f}", row["advice"], *forms)
        console.print(table)


def _seconds(rows: Mapping[str, Mapping[str, float]], form: str, length: int) -> float:
    row = rows[f"planted {length}"]
    return row["naive_seconds"] / row.get(f"{form}_speed", 1.0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the parts, print their tables and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "paper-tables.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    parts = {"table6": table6, "figure2": figure2, "figure3": figure3, "degradation": degradation}
    with torch.inference_mode():
        found = {name: parts[name](options.rounds) for name in options.part}
    show(found, Console(width=150))
    options.out.write_text(json.dumps({"status": "measured", "threads": options.threads, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
