"""Spectral attention on a GPU: its error against float64, its time against the fastest dense attention there is, in one interleaved run.

python -P -m szilard.benchmarks.gpu_attention [--device cuda] [--minutes 6] [--fresh] [--tiny] [--out FOLDER]

Peers: cuDNN, Flash and memory-efficient attention of torch's SDPA, and FlexAttention. Each way is warmed, captured as a CUDA graph and
timed in turn with the others; medians. Every case is written to the JSON file as soon as it is done, and a later run goes on from there.
--tiny runs a few tiny cases, on a CPU through Triton's interpreter (TRITON_INTERPRET=1), to prove the script: its seconds mean nothing and
are labelled so.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
import triton
from rich.console import Console
from rich.table import Table
from torch.nn.functional import cosine_similarity

from ..cost_model.whole_file import write_whole
from .gpu_attention_ways import FORMS, OURS, Case, Operands, clustered, forms, seconds, ways

RESULTS = Path(__file__).parent / "results"
SHARES = {1024: 0.25, 2048: 0.15, 4096: 0.10, 8192: 0.07, 16384: 0.05, 32768: 0.035, 65536: 0.025, 131072: 0.018}
"""Share of the tiles of keys that is taken exactly, by length: of 4K, 8K and 16K as in the CPU's benchmark, fewer beyond."""
CAUSAL_SHARES = {1024: 0.30, 2048: 0.20, 4096: 0.15, 8192: 0.10, 16384: 0.07, 32768: 0.05, 65536: 0.035, 131072: 0.025}
"""The same of the keys that a query may see: at 2K and 4K what holds SmolLM2's perplexity within 1 %, and fewer beyond."""
FLEX = 4096, 32768
"""Lengths at which FlexAttention, which compiles for each shape, is among the peers."""
TRAINED = 1024, 4096, 16384
"""Lengths at which the gradients are timed too."""
SAMPLED = 256
"""Queries of the first and the last head whose attention is computed in float64."""
Row = dict[str, Any]


def cases(tiny: bool) -> Iterator[tuple[Case, bool]]:
    """(case, whether with gradients), the most telling first, so that a run cut short says most."""
    if tiny:
        yield Case(24, 16, 2, 1, False, 0.3, tile=16, dtype="float32"), False
        yield Case(400, 16, 1, 1, True, 0.3, dtype="float32"), False
        yield Case(20, 16, 1, 1, False, 0.5, tile=16, dtype="float32"), True
        return
    lengths = sorted(SHARES, key=lambda length: abs(length - 16384))
    for causal, kv_heads in ((False, 16), (True, 4), (False, 4)):
        for length in lengths:
            for width in (64, 128):
                yield Case(length, width, 16, kv_heads, causal, (CAUSAL_SHARES if causal else SHARES)[length]), False
    for causal, shares in ((False, SHARES), (True, CAUSAL_SHARES)):
        for length in TRAINED:
            for width in (64, 128):
                yield Case(length, width, 16, 4, causal, shares[length]), True


def judged(case: Case, device: str) -> Row:
    """Errors of the forms of one case: against float64 dense attention for sampled queries, and up to 4096 keys against the reference."""
    operands = clustered(case, 2, device)
    places = torch.randperm(case.length, generator=torch.Generator().manual_seed(3))[:SAMPLED].to(device)
    row: Row = {"errors": {}, "cosines": {}, "finite": {}, "distance from the reference": {}}
    exact = forms(case, device, exact=True) if case.length <= 4096 else {}
    for name, form in forms(case, device).items():
        output = form(operands)
        pairs = [(dense(case, operands, head, places), output[0, head, places].double()) for head in {0, case.heads - 1}]
        row["errors"][name] = mean(relative(found, wanted) for wanted, found in pairs)
        row["cosines"][name] = mean(float(cosine_similarity(*pair, dim=-1).mean()) for pair in pairs)
        row["finite"][name] = bool(output.isfinite().all())
        if exact:
            row["distance from the reference"][name] = relative(output, exact[name](cast(operands, torch.float32)))
    return row


def cast(operands: Operands, dtype: torch.dtype) -> Operands:
    """Query, key and value in a dtype."""
    query, key, value = (x.to(dtype) for x in operands)
    return query, key, value


def dense(case: Case, operands: Operands, head: int, places: torch.Tensor) -> torch.Tensor:
    """Dense attention of the queries at some places of one head, in float64."""
    query, key, value = operands
    shared = head * case.kv_heads // case.heads
    logits = query[0, head, places].double() @ key[0, shared].double().mT * case.scale
    if case.causal:
        logits = logits.masked_fill(torch.arange(case.length, device=logits.device) > places[:, None], -torch.inf)
    return logits.softmax(-1) @ value[0, shared].double()


def gradients_judged(case: Case, device: str) -> Row:
    """Distances of the gradients of queries, keys and values from those that autograd finds of the reference in float32."""
    operands, found = clustered(case, 2, device), []
    for exact in (False, True):
        given = cast(operands, torch.float32 if exact else operands[0].dtype)
        for each in given:
            each.requires_grad_()
        output = forms(case, device, exact=exact)[OURS](given)
        found.append(torch.autograd.grad(output.float().square().sum(), given))
    names = ("query", "key", "value")
    return {f"gradient of the {name}": relative(*pair) for name, *pair in zip(names, *found, strict=True)}


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """|found - wanted| / |wanted|, Frobenius, in float64."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def row_of(case: Case, with_gradients: bool, device: str) -> Row:
    """All that is reported of one case."""
    flex = device != "cpu" and case.length in FLEX and not with_gradients
    samples, refused = seconds(ways(case, device, flex=flex, gradients=with_gradients), device)
    medians = {name: median(each) for name, each in samples.items()}
    row: Row = {
        "case": asdict(case),
        "budget": case.budget,
        "density": case.density,
        "gradients": with_gradients,
        "seconds": medians,
        "rounds": samples,
        "refused": refused,
    }
    peers = {name: value for name, value in medians.items() if name not in FORMS}
    if peers:
        row["fastest peer"] = min(peers, key=peers.__getitem__)
    if OURS in medians:
        row["speeds"] = {name: min(peers.values()) / medians[name] for name in FORMS if peers and name in medians}
        row |= (gradients_judged(case, device) if case.length <= 4096 else {}) if with_gradients else judged(case, device)
    return row


def run(
    path: Path, device: str, minutes: float, tiny: bool, console: Console, clock: Callable[[], float] = time.monotonic
) -> Row:
    """Does what `path` does not hold yet, until the minutes are over, and keeps each case as it is done."""
    name = "cpu, Triton's interpreter" if device == "cpu" else torch.cuda.get_device_name(device)
    stamp = {"device": name, "torch": torch.__version__, "triton": triton.__version__, "python": platform.python_version()}
    stamp["label"] = "simulated: only that the script runs" if device == "cpu" else "measured"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    data: Row = kept if {key: kept.get(key) for key in stamp} == stamp else {**stamp, "rows": {}}
    end = clock() + 60 * minutes
    for case, with_gradients in cases(tiny):
        key = case.name + (", with gradients" if with_gradients else "")
        if key in data["rows"]:
            continue
        if clock() > end:
            console.print(f"{minutes:g} minutes are over; the next run goes on with: {key}")
            break
        data["rows"][key] = row_of(case, with_gradients, device)
        write_whole(path, json.dumps(data, indent=1) + "\n")
    return data


def table(data: Row) -> Table:
    """A line for each case and form of ours."""
    heads = ("case", "exact", "form", "ms", "fastest peer", "ms", "times", "error", "cosine")
    found = Table(*heads, title=f"{data['device']}: {data['label']}")
    for key, row in data["rows"].items():
        peer = row.get("fastest peer", "-")
        for name in row.get("speeds") or ["-"]:
            figures = (row["seconds"].get(name), row["seconds"].get(peer))
            ours, theirs = ("-" if x is None else f"{x * 1e3:.3f}" for x in figures)
            rest = (row.get(x, {}).get(name) for x in ("speeds", "errors", "cosines"))
            judged_as = ("-" if x is None else f"{x:.3g}" for x in rest)
            found.add_row(key, f"{row['density']:.1%}", name, ours, peer, theirs, *judged_as)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the cases and prints the table and where the results are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=5.5, help="no case begins after so many")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier run found")
    parser.add_argument("--tiny", action="store_true", help="a few tiny cases, on the CPU unless a device is named")
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args(arguments)
    device = "cpu" if chosen.tiny and chosen.device == "cuda" else chosen.device
    if device != "cpu" and not torch.cuda.is_available():
        raise SystemExit(
            "gpu_attention: torch sees no CUDA device; --tiny proves the script on a CPU under TRITON_INTERPRET=1."
        )
    path = chosen.out / ("gpu-attention-tiny.json" if chosen.tiny else "gpu-attention.json")
    if chosen.fresh:
        path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    console = Console(width=150)
    console.print(table(run(path, device, chosen.minutes, chosen.tiny, console)))
    console.print(f"results: {path}")


if __name__ == "__main__":
    main()
