"""MiniLM as szilard rewrites it at several error budgets against fp32 and other tools' int8 files: time, fidelity and retrieval, in one
interleaved run.

python -P -m szilard.benchmarks.minilm [--budgets 0.006 0.0035] [--peer NAME=FILE] [--exporter torchscript] [--rounds 9] [--threads 2]

`--peer` adds the file of another tool; benchmarks/peer_neural_compressor.py makes one, in an environment of its own.
"""

import argparse
import json
import platform
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from platformdirs import user_cache_path
from rich.console import Console
from rich.table import Table

from ..cost_model.timing import median_interval, ratio_interval
from ..models import minilm, texts
from ..models.embedding import embedder, mean_cosine
from ..models.retrieval import pairs, recall_at_one
from .interleaved import measure, open_session
from .minilm_lines import FP32, NBITS, judge, rows
from .peers import make_peers

RESULTS = Path(__file__).parent / "results"
CASES = ((1, 16), (1, 128), (8, 128), (1, 512))
BUDGETS = (0.006, 0.0035, 0.0012)
"""From the coarsest line of `minilm_lines` to the finest."""


def inputs_of(batch: int, length: int) -> dict[str, np.ndarray]:
    """Random words without padding, int64 [batch, length] each, the same on every run."""
    words = np.random.default_rng(batch * 1000 + length).integers(1000, 30000, (batch, length))
    return {"input_ids": words, "attention_mask": np.ones_like(words), "token_type_ids": np.zeros_like(words)}


def quality(files: Mapping[str, Path], threads: int) -> dict[str, dict[str, float]]:
    """For each file: mean cosine to fp32 of 500 descriptions and of 12 texts of 300 to 512 tokens, recall@1, and size in MB.

    None of these texts is used for calibration.
    """
    tokenizer, short, long = minilm.tokenizer(), [line for _, line in pairs()], texts.passages()[-12:]
    references: tuple[np.ndarray, np.ndarray] | None = None
    found = {}
    for name, path in files.items():
        session = open_session(path, threads)
        outputs = [output.name for output in session.get_outputs()]

        def run(
            inputs: dict[str, np.ndarray], session: Any = session, outputs: Sequence[str] = outputs
        ) -> dict[str, np.ndarray]:
            return dict(zip(outputs, session.run(None, inputs), strict=True))

        embed = embedder(run, tokenizer, minilm.INPUTS)
        embedded = embed(short), embed(long)
        references = references or embedded
        found[name] = {
            "cosine": mean_cosine(embedded[0], references[0]),
            "cosine_long": mean_cosine(embedded[1], references[1]),
            "recall": recall_at_one(embed),
            "megabytes": megabytes(path),
        }
        del session, run, embed
    return found


def megabytes(path: Path) -> float:
    """Size of an ONNX file with the files beside it that hold weights."""
    tensors = [value.const_value for value in ir.load(path).graph.initializers.values()]
    beside = {str(tensor.location) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}
    return sum((path.parent / name).stat().st_size for name in {path.name, *beside}) / 1e6


def rewritten(source: Path, folder: Path, budgets: Sequence[float]) -> dict[str, Path]:
    """The ONNX files that szilard makes of `source` with each budget, all else equal, calibrated on the standard library's texts."""
    from ..rewriter.rewrite import rewrite

    calibration, found = texts.calibration(minilm.tokenizer(), minilm.INPUTS), {}
    for budget in budgets:
        out = folder / f"{budget:g}"
        rewrite(source, target="cpu", budget=budget, calibration=calibration, workload=["1x128", "8x128"], out=out)
        found[f"szilard, budget {budget:g}"] = out / "model.onnx"
    return found


def compare(files: Mapping[str, Path], ours: Sequence[str], threads: int, rounds: int) -> dict[str, Any]:
    """Everything measured, as it is written to JSON: seconds, their ratios to fp32, those of `ours` to each peer, the quality, and what
    the lines say. The other files are peers."""
    cases = {f"{batch}x{length}": inputs_of(batch, length) for batch, length in CASES}
    seconds = measure(files, cases, threads, rounds)
    fields, good = ("median", "low", "high"), quality(files, threads)
    peers = [name for name in files if name not in (FP32, *ours)]
    return {
        "benchmark": "minilm",
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"system": f"{platform.system()} {platform.machine()}", "processor": processor(), "threads": threads},
        "versions": {"python": platform.python_version(), "onnxruntime": onnxruntime.__version__},
        "rounds": rounds,
        "seconds": {
            case: {
                name: dict(zip(fields, (statistics.median(times), *median_interval(times)), strict=True))
                for name, times in by_file.items()
            }
            for case, by_file in seconds.items()
        },
        "ratio_to_fp32": {
            case: {
                name: dict(zip(fields, ratio_interval(times, by_file[FP32]), strict=True)) for name, times in by_file.items()
            }
            for case, by_file in seconds.items()
        },
        "szilard_to_peer": {
            case: {
                name: {peer: dict(zip(fields, ratio_interval(by_file[name], by_file[peer]), strict=True)) for peer in peers}
                for name in ours
            }
            for case, by_file in seconds.items()
        },
        "quality": good,
        "lines": rows(judge(seconds, good, ours, [name for name in peers if name != NBITS])),
    }


def processor() -> str:
    """The name of the processor, as the kernel gives it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def show(result: Mapping[str, Any], console: Console) -> None:
    """Two tables: each file against fp32, and the lines; intervals in brackets."""
    cases = list(result["seconds"])
    table = Table(title="measured: time as a share of fp32 (interval), fp32 in ms, and quality")
    for heading in ("file", *cases, "cosine", "long", "recall@1", "MB"):
        table.add_column(heading, justify="left" if heading == "file" else "right")
    for name, good in result["quality"].items():
        cells = [
            f"{1e3 * result['seconds'][case][name]['median']:.2f} ms"
            if name == FP32
            else _cell(result["ratio_to_fp32"][case][name])
            for case in cases
        ]
        figures = (f"{good['cosine']:.5f}", f"{good['cosine_long']:.5f}", f"{good['recall']:.3f}", f"{good['megabytes']:.0f}")
        table.add_row(name, *cells, *figures)
    console.print(table)
    table = Table(title="measured: time of szilard's fastest file of that fidelity as a share of another's (interval)")
    for heading in ("cosine at least", "case", "szilard's", "against", "ratio", "must", "goal", ""):
        table.add_column(heading)
    for row in result["lines"]:
        cosine = f"{row['cosine']:g}" + (", long too" if row["long"] else "")
        ratio = _cell(row["ratio"]) if row["ratio"] else "no file is that near"
        table.add_row(
            cosine, row["case"], row["file"], row["against"], ratio, f"{row['must']:.2f}", f"{row['goal']:.2f}", row["verdict"]
        )
    console.print(table)


def _cell(value: Mapping[str, float]) -> str:
    return f"{value['median']:.3f} ({value['low']:.3f}-{value['high']:.3f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes the files, runs the comparison, prints the tables and writes benchmarks/results/minilm-<exporter>-<threads>.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", type=float, nargs="+", default=list(BUDGETS))
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=FILE", help="another tool's file, may be repeated")
    parser.add_argument("--exporter", choices=("dynamo", "torchscript"), default="dynamo")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args(arguments)
    cache = user_cache_path("szilard", appauthor=False) / "benchmarks"
    source = minilm.export(cache, chosen.exporter)
    with tempfile.TemporaryDirectory() as folder:
        ours = rewritten(source, Path(folder), chosen.budgets)
        others = {name: Path(file) for name, _, file in (each.partition("=") for each in chosen.peer)}
        files = {FP32: source, **make_peers(source, cache), **others, **ours}
        result = compare(files, list(ours), chosen.threads, chosen.rounds)
    show(result, Console(width=160))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"minilm-{chosen.exporter}-{chosen.threads}-threads.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to benchmarks/results/{path.name}")


if __name__ == "__main__":
    main()
