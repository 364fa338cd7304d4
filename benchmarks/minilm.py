"""MiniLM as szilard rewrites it against fp32 and onnxruntime's own quantisers: time, fidelity and retrieval, in one interleaved run.

python -P -m szilard.benchmarks.minilm [--output out/model.onnx] [--exporter torchscript] [--rounds 9] [--threads 2]
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
import onnxruntime
from platformdirs import user_cache_path
from rich.console import Console
from rich.table import Table

from ..cost_model.timing import median_interval, ratio_interval
from ..models import minilm, texts
from ..models.embedding import embedder, mean_cosine
from ..models.retrieval import pairs, recall_at_one
from .interleaved import measure, open_session
from .peers import make_peers

RESULTS = Path(__file__).parent / "results"
CASES = ((1, 16), (1, 128), (8, 128), (1, 512))
FP32, OURS = "fp32", "szilard"


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
            "megabytes": path.stat().st_size / 1e6,
        }
        del session, run, embed
    return found


def rewritten(source: Path, folder: Path) -> Path:
    """The ONNX file that szilard makes of `source` with its default budget, calibrated on the standard library's texts."""
    from ..rewriter.rewrite import rewrite

    calibration = texts.calibration(minilm.tokenizer(), minilm.INPUTS)
    rewrite(source, target="cpu", calibration=calibration, workload=["1x128", "8x128"], out=folder / "out")
    return folder / "out" / "model.onnx"


def compare(files: Mapping[str, Path], threads: int, rounds: int) -> dict[str, Any]:
    """Everything measured, as it is written to JSON: seconds, their ratios to fp32, ours to each peer, and the quality."""
    cases = {f"{batch}x{length}": inputs_of(batch, length) for batch, length in CASES}
    seconds = measure(files, cases, threads, rounds)
    fields = ("median", "low", "high")
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
                name: dict(zip(fields, ratio_interval(by_file[OURS], times), strict=True))
                for name, times in by_file.items()
                if OURS in by_file and name not in (OURS, FP32)
            }
            for case, by_file in seconds.items()
        },
        "quality": quality(files, threads),
    }


def processor() -> str:
    """The name of the processor, as the kernel gives it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def show(result: Mapping[str, Any], console: Console) -> None:
    """Two tables: each file against fp32, and ours against each peer; intervals in brackets."""
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
    peers = list(result["szilard_to_peer"][cases[0]])
    if peers:
        table = Table("szilard / peer", *cases, title="measured: time of szilard's file as a share of each peer's (interval)")
        for name in peers:
            table.add_row(name, *(_cell(result["szilard_to_peer"][case][name]) for case in cases))
        console.print(table)


def _cell(value: Mapping[str, float]) -> str:
    return f"{value['median']:.3f} ({value['low']:.3f}-{value['high']:.3f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes the files, runs the comparison, prints the tables and writes benchmarks/results/minilm-<exporter>-<threads>.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="a file szilard wrote (default: rewrite the fp32 file now)")
    parser.add_argument("--exporter", choices=("dynamo", "torchscript"), default="dynamo")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args(arguments)
    cache = user_cache_path("szilard", appauthor=False) / "benchmarks"
    source = minilm.export(cache, chosen.exporter)
    with tempfile.TemporaryDirectory() as folder:
        ours = chosen.output or rewritten(source, Path(folder))
        files = {FP32: source, **make_peers(source, cache), OURS: ours}
        result = compare(files, chosen.threads, chosen.rounds)
    show(result, Console(width=160))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"minilm-{chosen.exporter}-{chosen.threads}-threads.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to benchmarks/results/{path.name}")


if __name__ == "__main__":
    main()
