"""Spectral attention in onnxruntime on the CPU against the best dense attention there is: time, error and growth, in one interleaved run.

python -P -m szilard.benchmarks.attention_onnx [--widths 64 32] [--lengths 4096 8192 16384] [--heads 12] [--rounds 3] [--threads 2]
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from onnx import helper
from rich.console import Console
from rich.table import Table

from ..cost_model.timing import median_interval, ratio_interval
from ..kernels.spectral_attention.onnx_body import OPSET, attention_nodes
from ..kernels.spectral_attention.prepare import SparsePrepared, prepare
from ..kernels.spectral_attention.tiling import tiles_for
from .interleaved import open_session
from .minilm import RESULTS, processor

DENSITIES = {4096: 0.10, 8192: 0.07, 16384: 0.05}
"""Share of the tiles of keys that is taken exactly, by length; every other tile is one more column."""
OURS, FUSED, TORCH = "szilard", "onnxruntime MultiHeadAttention", "torch SDPA"
WARM = {OURS: 2, FUSED: 1, TORCH: 0}
"""Calls before the first that counts: a session with many intermediates still asks the system for memory in its second call (580 ms against
450 at 16,384 keys); SDPA keeps nothing between calls."""
CLUSTERS = 48
CALIBRATION = 4096
SECONDS = 0.4
Arrays = Mapping[str, np.ndarray]


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


def prepared_for(length: int, density: float, heads: int, width: int) -> SparsePrepared:
    """Codebooks from another draw than the one that is timed."""
    other = clustered(1, heads, CALIBRATION, width)
    return prepare(other["q"][0], other["k"][0], length=length, scale=width**-0.5, density=density)


def write_ours(path: Path, prepared: SparsePrepared) -> None:
    """The operator as a file of standard ONNX operators: q, k, v [B, heads, N, D] -> y."""
    heads, _, width = prepared.query_codebook.shape
    inputs = [
        ir.Value(name=name, shape=ir.Shape(["B", heads, "N", width]), type=ir.TensorType(ir.DataType.FLOAT)) for name in "qkv"
    ]
    query, key, value = inputs
    body = attention_nodes(query, key, value, prepared, "sparse")
    body.output.shape = ir.Shape(["B", heads, "N", width])
    graph = ir.Graph(
        inputs, [body.output], nodes=body.nodes, initializers=body.initializers, opset_imports={"": OPSET}, name="g"
    )
    ir.save(ir.Model(graph, ir_version=8), path)


def write_fused(path: Path, heads: int, width: int) -> None:
    """onnxruntime's own fused attention: q, k, v [B, N, heads * D] -> y; without a mask it is flash attention."""
    node = helper.make_node(
        "MultiHeadAttention", list("qkv"), ["y"], domain="com.microsoft", num_heads=heads, scale=width**-0.5
    )
    infos = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["B", "N", heads * width]) for name in "qkvy"]
    domains = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(
        helper.make_model(helper.make_graph([node], "g", infos[:3], infos[3:]), opset_imports=domains, ir_version=8), path
    )


class Case:
    """One length and width: its operands and three ways to compute the attention over them."""

    def __init__(self, folder: Path, width: int, length: int, density: float, heads: int, threads: int) -> None:
        self.name, self.width, self.length, self.threads = f"{width}x{length}", width, length, threads
        self.prepared = prepared_for(length, density, heads, width)
        self.operands = clustered(2, heads, length, width)
        self.files = {OURS: folder / f"ours-{self.name}.onnx", FUSED: folder / f"fused-{self.name}.onnx"}
        write_ours(self.files[OURS], self.prepared)
        write_fused(self.files[FUSED], heads, width)

    @contextmanager
    def opened(self, name: str) -> Iterator[Callable[[], np.ndarray]]:
        """A call of that form on the operands; no more than one is open at a time."""
        if name == TORCH:
            torch.set_num_threads(self.threads)
            query, key, value = (torch.from_numpy(self.operands[each]) for each in "qkv")
            yield lambda: torch.nn.functional.scaled_dot_product_attention(query, key, value).numpy()
            return
        opened, feeds = [open_session(self.files[name], self.threads)], self.operands
        if name == FUSED:
            flat = {each: np.ascontiguousarray(x.transpose(0, 2, 1, 3)) for each, x in feeds.items()}
            feeds = {each: x.reshape(*x.shape[:2], -1) for each, x in flat.items()}
        yield lambda: opened[0].run(None, dict(feeds))[0]
        opened.clear()

    def quality(self) -> dict[str, float]:
        """Exact tiles and their share of all, and relative error and mean cosine against dense attention."""
        outputs = {}
        for name in (OURS, TORCH):
            with self.opened(name) as call:
                outputs[name] = call().astype(np.float64)
        found, wanted = outputs[OURS], outputs[TORCH]
        lengths = np.linalg.norm(found, axis=-1) * np.linalg.norm(wanted, axis=-1)
        tiles = tiles_for(self.length, self.prepared.key_tile or self.prepared.tile)
        return {
            "exact_tiles": max(self.prepared.budgets),
            "tiles": tiles,
            "density": max(self.prepared.budgets) / tiles,
            "relative_error": float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted)),
            "cosine": float(np.mean((found * wanted).sum(-1) / lengths)),
        }


def median_call(call: Callable[[], object], warm: int) -> float:
    """Median seconds of up to five calls that take `SECONDS` together, after `warm` calls that are not counted."""
    for _ in range(warm):
        call()
    samples: list[float] = []
    while len(samples) < 5 and sum(samples) < SECONDS:
        start = time.perf_counter()
        call()
        samples.append(time.perf_counter() - start)
    return statistics.median(samples)


def measured(cases: Sequence[Case], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Median seconds of each round: {case: {form: [rounds]}}; every round takes all cases, and the order of the forms turns by one."""
    forms = [OURS, FUSED, TORCH]
    found: dict[str, dict[str, list[float]]] = {case.name: {form: [] for form in forms} for case in cases}
    for turn in range(rounds):
        shift = turn % len(forms)
        for case in cases:
            for form in forms[shift:] + forms[:shift]:
                with case.opened(form) as call:
                    found[case.name][form].append(median_call(call, WARM[form]))
    return found


def compare(cases: Sequence[Case], heads: int, threads: int, rounds: int) -> dict[str, Any]:
    """Everything measured, as it is written to JSON; the best peer of a case is the one with the least median."""
    quality = {case.name: case.quality() for case in cases}
    seconds = measured(cases, rounds)
    best = {name: min((FUSED, TORCH), key=lambda form: statistics.median(by_form[form])) for name, by_form in seconds.items()}
    doubled = [(a, b) for a in cases for b in cases if a.width == b.width and 2 * a.length == b.length]
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
        cases = [
            Case(Path(folder), width, length, DENSITIES[length], chosen.heads, chosen.threads)
            for width in chosen.widths
            for length in chosen.lengths
        ]
        result = compare(cases, chosen.heads, chosen.threads, chosen.rounds)
    show(result, Console(width=200))
    RESULTS.mkdir(exist_ok=True)
    widths = "-".join(map(str, chosen.widths))
    path = RESULTS / f"attention-onnx-{widths}-wide-{chosen.threads}-threads.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to benchmarks/results/{path.name}")


if __name__ == "__main__":
    main()
