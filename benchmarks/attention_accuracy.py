"""Error, cosine and speed of spectral attention at N = 4096, on planted clusters and on trained heads, from one run.

`python -P -m szilard.benchmarks.attention_accuracy`. One operator throughout, that of `attention_onnx.py`: rows differ in how many tiles of
keys are exact. Codebooks come from other draws of the planted clusters, and from other text than the one judged. Planted clusters run in
onnxruntime, trained heads in the torch module, which is the same operator to rounding.

Relative error: |found - dense| / |dense| (Frobenius) of a head's output. Cosine: between the two outputs of a query, a mean over queries.
Both are means over heads, 72 for MiniLM.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn.functional import cosine_similarity, scaled_dot_product_attention

from ..cost_model.timing import ratio_interval
from ..kernels.spectral_attention.certificate import certified_attention, plan_of
from ..kernels.spectral_attention.paper import paper_attention
from ..kernels.spectral_attention.prepare import SparsePrepared, prepare
from ..kernels.spectral_attention.reference import NEVER, attend, rows
from ..kernels.spectral_attention.tiling import TILE
from ..kernels.spectral_attention.torch_module import build
from ..models import minilm
from ..models.standard_library import documented, stable_order, topics
from .attention_forms import CALIBRATED, MODULE, NAIVE, NAIVE_ONNX, OURS, TORCH, Case, measured, naive

__all__ = ["naive", "planted", "quality", "trained_heads"]
RESULTS = Path(__file__).parent / "results"
LENGTH = 4096
CLUSTERS, HEADS, WIDTH = 64, 12, 64
PRINTED_HEADS = 2
"""Heads of the planted clusters that the printed form is run on: its edges are N x N masks."""
SPREADS = (0.5, 1.0, 2.0)
PLANTED_TILES = 3
"""Tiles attended to exactly by each tile of queries of the planted clusters; one holds as many keys as a cluster has, but straddles two."""
EXACT_TILES = (7, 6, 4, 3)
"""Of 64, on trained heads: 10.9, 9.4, 6.2 and 4.7 %."""
FORMS = (NAIVE, NAIVE_ONNX, TORCH, MODULE, OURS)
SEGMENTS, SEGMENT = 8, 512
CALIBRATION_SEGMENTS = 32
Heads = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Query, key, value [1, H, N, D] each."""


class Quality(NamedTuple):
    """Of some heads: mean relative error, its 90th percentile, and mean cosine."""

    error: float
    error_p90: float
    cosine: float


def quality(found: Sequence[torch.Tensor], dense: Sequence[torch.Tensor]) -> Quality:
    """Of the heads in the lists' tensors [1, H, N, Dv] together."""
    pairs = list(zip(found, dense, strict=True))
    error = torch.cat([((a - b).norm(dim=(2, 3)) / b.norm(dim=(2, 3)))[0] for a, b in pairs])
    cosine = torch.cat([cosine_similarity(a, b, dim=-1).mean(-1)[0] for a, b in pairs])
    return Quality(float(error.mean()), float(error.quantile(0.9)), float(cosine.mean()))


def planted(seed: int, spread: float, kind: str = "apart") -> Heads:
    """12 heads of 64 clusters around normal centres, about 11 apart, with a value centre each; every row belongs to a cluster.

    "apart": query and key of a row are drawn apart, at a root-mean-square distance of `spread` from the centre, so that clusters are
    farther apart than twice their radius (Assumption 8.1) for every spread here. "tokens": query and key are the same row, whose
    coordinates deviate by `spread` each. "beyond": drawn apart with that deviation, a distance of 8 * `spread`, where no clusters are
    left to find. Values deviate as much as keys.
    """
    fixed, random = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    centres = [torch.randn(HEADS, CLUSTERS, WIDTH, generator=fixed) for _ in range(2)]
    member = torch.randint(0, CLUSTERS, (HEADS, LENGTH), generator=random)[..., None].expand(-1, -1, WIDTH)
    deviation = spread / math.sqrt(WIDTH) if kind == "apart" else spread

    def drawn(around: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(HEADS, LENGTH, WIDTH, generator=random)
        return (around.gather(1, member) + deviation * noise)[None]

    query, key, value = drawn(centres[0]), drawn(centres[0]), drawn(centres[1])
    return query, query if kind == "tokens" else key, value


def prepared_for(query: torch.Tensor, key: torch.Tensor, budget: int) -> SparsePrepared:
    """Codebooks from those rows."""
    made = prepare(query[0].numpy(), key[0].numpy(), length=CALIBRATED, scale=query.shape[-1] ** -0.5, tile=TILE)
    return replace(made, budget=budget)


def dropped(prepared: SparsePrepared, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The same exact tiles, and the rest left out."""
    plan = plan_of(prepared, query, key, value)
    output, _ = attend(plan._replace(mass=torch.full_like(plan.mass, NEVER)))
    return rows(output.flatten(2, 3), plan.order.argsort(dim=-1))


def printed(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The source's Algorithm 2 with sqrt(N) clusters and samples, head by head for its N x N mask."""
    found = [
        paper_attention(
            *(x[:, head, None] for x in (query, key, value)), scale=query.shape[-1] ** -0.5, clusters=64, samples=64
        )
        for head in range(query.shape[1])
    ]
    return torch.cat(found, dim=1)


def on_planted(rounds: int, threads: int) -> dict[str, dict[str, Any]]:
    """For each kind and spread: quality in onnxruntime, and for the first kind that of the printed form and the seconds of every form,
    all three spreads in turn."""
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        made = {}
        for kind, spread in [(kind, spread) for kind in ("apart", "tokens", "beyond") for spread in SPREADS]:
            operands, calibration = planted(1, spread, kind), planted(2, spread, kind)
            arrays = {each: x.numpy() for each, x in zip("qkv", operands, strict=True)}
            case = Case(Path(folder), f"{kind} {spread:g}", arrays, prepared_for(*calibration[:2], PLANTED_TILES), threads)
            dense = scaled_dot_product_attention(*operands)
            with case.opened(OURS) as call:
                found[case.name] = quality([torch.from_numpy(call())], [dense])._asdict()
            if kind == "apart":
                made[case.name] = case
                paper = quality([printed(*(x[:, :PRINTED_HEADS] for x in operands))], [dense[:, :PRINTED_HEADS]])
                found[case.name] |= {"paper_error": paper.error, "paper_cosine": paper.cosine}
        for name, seconds in measured(list(made.values()), FORMS, rounds).items():
            found[name]["seconds"] = {form: statistics.median(times) for form, times in seconds.items()}
            found[name]["times"] = {
                form: dict(zip(("median", "low", "high"), ratio_interval(seconds[form], seconds[OURS]), strict=True))
                for form in FORMS
            }
    return found


def trained_heads(text: str, segments: int) -> list[Heads]:
    """Query, key and value [1, 12, segments * 512, 32] of each layer of MiniLM on the first tokens of `text`, cut into `segments` that
    are read apart and pooled."""
    tokenizer, model = minilm.tokenizer(), minilm.load()
    words = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][: segments * (SEGMENT - 2)])
    ends = [torch.full((segments, 1), end) for end in (tokenizer.cls_token_id, tokenizer.sep_token_id)]
    words = torch.cat([ends[0], words.view(segments, -1), ends[1]], dim=1)
    found: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if name.endswith(("self.query", "self.key", "self.value")):
            module.register_forward_hook(lambda _, __, output, name=name: found.update({name: output}))
    model(words, torch.ones_like(words), torch.zeros_like(words))
    heads = [x.unflatten(-1, (12, -1)).permute(2, 0, 1, 3).flatten(1, 2)[None] for x in found.values()]
    return [(heads[start], heads[start + 1], heads[start + 2]) for start in range(0, len(heads), 3)]


def on_trained(certify: int) -> tuple[dict[str, Quality], dict[str, float]]:
    """(quality by form over all heads of MiniLM, what `certify` samples a tile say of the error at the first of `EXACT_TILES`). Judged on
    docstrings, codebooks from the language reference."""
    judged = "\n".join(sorted((text for _, _, text in documented()), key=stable_order))
    layers = trained_heads(judged, SEGMENTS)
    calibration = trained_heads("\n".join(sorted(topics(), key=stable_order)), CALIBRATION_SEGMENTS)
    dense = [scaled_dot_product_attention(*each) for each in layers]
    outputs: dict[str, list[torch.Tensor]] = {
        "the mean value": [each[2].mean(2, keepdim=True).expand_as(each[2]) for each in layers],
        "paper's form": [printed(*each) for each in layers],
    }
    certificates = []
    for layer, (operands, (query, key, _)) in enumerate(zip(layers, calibration, strict=True)):
        made = prepared_for(query, key, 0)
        for tiles in EXACT_TILES:
            taken = replace(made, budget=tiles)
            name = f"{tiles} of {LENGTH // TILE} tiles exact"
            outputs.setdefault(f"spectral, {name}", []).append(build(taken)(*operands))
            outputs.setdefault(f"dropped, {name}", []).append(dropped(taken, *operands))
        for head in range(operands[0].shape[1]) if certify else ():
            certificates.append(_certified(replace(made, budget=EXACT_TILES[0]), operands, dense[layer], head, certify, layer))
    columns = [float(np.mean(column)) for column in zip(*certificates, strict=True)]
    kept = dict(zip(("samples", "covered", "width", "unbiased_error"), (certify, *columns), strict=True)) if certify else {}
    return {name: quality(found, dense) for name, found in outputs.items()}, kept


def _certified(
    prepared: SparsePrepared, operands: Heads, dense: torch.Tensor, head: int, samples: int, layer: int
) -> tuple[bool, float, float]:
    """Of one head: whether the interval holds the error of the plain form, how wide it is, and the error of the unbiased form."""
    books = prepared.query_codebook[head, None], prepared.key_codebook[head, None]
    one = replace(prepared, query_codebook=books[0], key_codebook=books[1])
    query, key, value = (x[:, head, None] for x in operands)
    output, certificate = certified_attention(one, query, key, value, samples=samples, unbiased=True, seed=100 * layer + head)
    wanted = dense[:, head, None]
    plain = quality([build(one)(query, key, value)], [wanted]).error
    low, high = (float(bound[0, 0]) for bound in (certificate.error.low, certificate.error.high))
    return low <= plain <= high, high - low, quality([output], [wanted]).error


def show(result: Mapping[str, Any], console: Console) -> None:
    """The tables."""
    title = f"planted clusters, N = {LENGTH}, {HEADS} heads of {WIDTH}, {PLANTED_TILES} of {LENGTH // TILE} tiles exact"
    table = Table(title=f"{title}: seconds of each form over ours in onnxruntime (interval)")
    for heading in ("spread", "error", "cosine", "ours", *FORMS[:-1], "paper's error, cosine"):
        table.add_column(heading, justify="left" if heading == "spread" else "right")
    for name, row in result["planted"].items():
        cells = [name, f"{row['error']:.4f}", f"{row['cosine']:.4f}"]
        if "seconds" in row:
            cells.append(f"{1e3 * row['seconds'][OURS]:.0f} ms")
            for form in FORMS[:-1]:
                ratio = row["times"][form]
                cells.append(f"{ratio['median']:.1f} x ({ratio['low']:.1f}-{ratio['high']:.1f})")
            cells.append(f"{row['paper_error']:.2f}, {row['paper_cosine']:.2f}")
        table.add_row(*cells)
    if result["planted"]:
        console.print(table)
    table = Table("form", "error", "90th percentile", "cosine", title=f"72 heads of MiniLM pooled to N = {LENGTH}")
    for name, (error, worst, cosine) in result["trained"].items():
        table.add_row(name, f"{error:.4f}", f"{worst:.4f}", f"{cosine:.4f}")
    if result["trained"]:
        console.print(table)
    if found := result["certificates"]:
        console.print(
            f"certificates of {found['samples']:.0f} samples a tile, {EXACT_TILES[0]} tiles exact: {found['covered']:.0%} of the 95 % "
            f"intervals hold the error, mean width {found['width']:.3f}; unbiased form: mean error {found['unbiased_error']:.4f}"
        )


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the chosen parts, prints their tables and writes benchmarks/results/attention-accuracy-<part>.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--certify", type=int, default=64, metavar="SAMPLES", help="samples of each certificate; 0 for none")
    parser.add_argument("--part", choices=("planted", "trained", "both"), default="both")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    on_clusters = on_planted(chosen.rounds, chosen.threads) if chosen.part != "trained" else {}
    trained, certificates = on_trained(chosen.certify) if chosen.part != "planted" else ({}, {})
    result = {
        "benchmark": "attention_accuracy", "threads": chosen.threads, "tile": TILE, "planted": on_clusters,
        "planted_tiles": PLANTED_TILES, "trained": {name: tuple(found) for name, found in trained.items()},
        "certificates": certificates,
    }  # fmt: skip
    show(result, Console(width=150))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"attention-accuracy-{chosen.part}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
