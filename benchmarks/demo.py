"""The main job on a real model: MiniLM rewritten from PyTorch and from its ONNX export, with a retrieval metric before and after.

python -P -m szilard.benchmarks.demo [--out FOLDER]
"""

import argparse
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..models import minilm, texts
from ..models.embedding import embedder, mean_cosine
from ..models.retrieval import pairs, recall_at_one
from ..rewriter.rewrite import rewrite

SHAPES = ["1x128:0.5", "8x128:0.5"]
DROP = 0.01


def main() -> None:
    """Rewrites both, prints one table, and says where the reports are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None, help="keep the two output folders here")
    folder = parser.parse_args().out or Path(tempfile.mkdtemp(prefix="szilard-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore")
    console, started = Console(width=110), time.perf_counter()
    tokenizer = minilm.tokenizer()

    def recall(run: Any) -> float:
        return recall_at_one(embedder(run, tokenizer, minilm.INPUTS))

    arguments: dict[str, Any] = {
        "workload": SHAPES,
        "budget": DROP,
        "metric": recall,
        "calibration": texts.calibration(tokenizer, minilm.INPUTS),
    }
    onnx_file = minilm.export(folder)
    inputs = {"from ONNX": (str(onnx_file), None), "from PyTorch": (minilm.load(), minilm.sample())}
    table = Table(title="all-MiniLM-L6-v2, target cpu, 1x128 and 8x128 in equal parts", title_justify="left")
    for heading in (
        "",
        "runtime",
        "seconds before",
        "after",
        "share",
        "modelled joules before",
        "after",
        "recall@1",
        "after",
        "cosine",
    ):
        table.add_column(heading, justify="left" if heading in ("", "runtime") else "right")
    for name, (model, sample) in inputs.items():
        out = folder / name.replace(" ", "-").lower()
        result = rewrite(
            model,
            sample,
            out=out,
            force=True,
            progress=lambda text: console.print(f"[dim]{time.perf_counter() - started:5.0f} s  {text}"),
            **arguments,
        )
        for done in result.optimised:
            row = result.report["runtimes"][done.backend.runtime]
            seconds, joules, error = row["seconds"], row["joules"], row["error"]
            table.add_row(
                name, done.backend.runtime,
                f"{seconds['before'] * 1e3:.1f} ms", f"{seconds['after'] * 1e3:.1f} ms", f"{seconds['after'] / seconds['before']:.2f}",
                f"{joules['before']:.3f} J", f"{joules['after']:.3f} J",
                f"{error['metric_before'] or 0:.3f}", f"{error['metric_after'] or 0:.3f}", f"{_cosine(done, tokenizer):.4f}",
            )  # fmt: skip
    console.print(table)
    console.print(f"Seconds are measured on this machine, joules are modelled. Reports: {folder}/*/report.html")
    console.print(f"demo: done in {time.perf_counter() - started:.0f} s")


def _cosine(done: Any, tokenizer: Any) -> float:
    """Mean cosine of 200 embeddings before and after."""
    lines = [line for _, line in pairs()[:200]]
    found = []
    for program in (done.original, done.program):
        with done.backend.runner(program.graph) as run:
            found.append(embedder(run, tokenizer, minilm.INPUTS)(lines))
    return mean_cosine(*found)


if __name__ == "__main__":
    main()
