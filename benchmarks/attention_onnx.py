"""Spectral attention in onnxruntime on the CPU against the best dense attention there is: time, error and growth, in one interleaved run.

python -P -m szilard.benchmarks.attention_onnx [--widths 64 32] [--lengths 4096 8192 16384] [--heads 12] [--rounds 3] [--threads 2]
"""

import argparse
import json
import platform
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from rich.console import Console
from rich.table import Table

from ..cost_model.timing import median_interval, ratio_interval
from ..kernels.spectral_attention.prepare import prepare
from ..kernels.spectral_attention.tiling import TILE
from .attention_forms import CALIBRATED, FUSED, OURS, TORCH, Case, measured
from .minilm import RESULTS, processor

DENSITIES = {4096: 0.10, 8192: 0.07, 16384: 0.05}
"""Share of the tiles of keys that is taken exactly, by length; every other tile is one more column."""
CLUSTERS = 48
CALIBRATION = 4096


def clustered(seed: int, heads: int, length: int, width: int) -> dict[str, np.ndarray]:
    """q, k, v [1, heads, length, width] float32 around `CLUSTERS` centres a head that all seeds share, in clusters of unequal size.

    A logit within a cluster lies about 8 above one between clusters, and the noise around a centre moves it by about 3: a query spreads
    its weight over a tenth of the keys."""
    fixed, random = np.random.default_rng(width), np.random.default_rng(seed)
    share = 1 / np.arange(1, CLUSTERS + 1) ** 0.5
    size = np.sqrt(8 / np.sqrt(width))
    centres, values = (fixed.standard_normal((1, heads, CLUSTERS, width)) for _ in "kv")
    found = {}
    for name in "qk":
        member = random.choice(CLUSTERS, (1, heads, length, 1), p=share / share.sum())
        noise = 0.6 * random.standard_normal((1, heads, length, width))
        found[name] = (size * (np.take_along_axis(centres, member, axis=2) + noise)).astype(np.float32)
    noise = 0.5 * random.standard_normal((1, heads, length, width))
    found["v"] = (np.take_along_axis(values, member, axis=2) + noise).astype(np.float32)
    return found


def cases(folder: Path, widths: Sequence[int], lengths: Sequence[int], heads: int, threads: int) -> list[Case]:
    """A case for each width and length, named "WxN". Codebooks come from another draw than the one that is timed, and all lengths of a
    width share them: the cases differ in their exact tiles only."""
    found = []
    for width in widths:
        other = clustered(1, heads, CALIBRATION, width)
        made = prepare(other["q"][0], other["k"][0], length=CALIBRATED, scale=width**-0.5, tile=TILE)
        for length in lengths:
            prepared = replace(made, budget=round(DENSITIES[length] * length / TILE))
            found.append(Case(folder, f"{width}x{length}", clustered(2, heads, length, width), prepared, threads))
    return found


def compare(made: Sequence[Case], heads: int, threads: int, rounds: int) -> dict[str, Any]:
    """Everything measured, as it is written to JSON; the best peer of a case is the one with the least median."""
    quality = {case.name: case.quality() for case in made}
    seconds = measured(made, (OURS, FUSED, TORCH), rounds)
    best = {name: min((FUSED, TORCH), key=lambda form: statistics.median(by_form[form])) for name, by_form in seconds.items()}
    doubled = [(a, b) for a in made for b in made if a.width == b.width and 2 * a.length == b.length]
    return {
        "benchmark": "attention_onnx",
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"system": f"{platform.system()} {platform.machine()}", "processor": processor(), "threads": threads},
        "versions": {"python": platform.python_version(), "onnxruntime": onnxruntime.__version__, "torch": torch.__version__},
        "heads": heads,
        "rounds": rounds,
        "quality": quality,
        "seconds": {
            name: {form: _triple(statistics.median(times), *median_interval(times)) for form, times in by_form.items()}
            for name, by_form in seconds.items()
        },
        "best_peer": best,
        "speedup": {name: _triple(*ratio_interval(by[best[name]], by[OURS])) for name, by in seconds.items()},
        "growth": {
            b.name: {
                form: _triple(*ratio_interval(seconds[b.name][form], seconds[a.name][form])) for form in (OURS, best[b.name])
            }
            for a, b in doubled
        },
    }


def _triple(median: float, low: float, high: float) -> dict[str, float]:
    return {"median": median, "low": low, "high": high}


def show(result: Mapping[str, Any], console: Console) -> None:
    """One row a case; intervals in brackets."""
    table = Table(title=f"attention in ms, {result['heads']} heads, float32, {result['machine']['threads']} threads (interval)")
    headings = ("width x keys", "exact tiles", FUSED, TORCH, OURS, "best dense / ours", "ours, N doubled", "error", "cosine")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == headings[0] else "right")
    for name, good in result["quality"].items():
        seconds = [
            _cell({key: 1e3 * x for key, x in result["seconds"][name][form].items()}, 1) for form in (FUSED, TORCH, OURS)
        ]
        growth = result["growth"].get(name)
        table.add_row(
            name.replace("x", " x "), f"{good['exact_tiles']} of {good['tiles']} ({good['density']:.1%})", *seconds,
            _cell(result["speedup"][name], 2), _cell(growth[OURS], 2) if growth else "",
            f"{good['relative_error']:.3f}", f"{good['cosine']:.4f}",
        )  # fmt: skip
    console.print(table)


def _cell(value: Mapping[str, float], digits: int) -> str:
    return f"{value['median']:.{digits}f} ({value['low']:.{digits}f}-{value['high']:.{digits}f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the comparison, prints the table and writes benchmarks/results/attention-onnx-<widths>-wide-<threads>-threads.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 32])
    parser.add_argument("--lengths", type=int, nargs="+", choices=sorted(DENSITIES), default=sorted(DENSITIES))
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        made = cases(Path(folder), chosen.widths, chosen.lengths, chosen.heads, chosen.threads)
        result = compare(made, chosen.heads, chosen.threads, chosen.rounds)
    show(result, Console(width=200))
    RESULTS.mkdir(exist_ok=True)
    widths = "-".join(map(str, chosen.widths))
    path = RESULTS / f"attention-onnx-{widths}-wide-{chosen.threads}-threads.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to benchmarks/results/{path.name}")


if __name__ == "__main__":
    main()
