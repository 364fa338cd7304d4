"""The main job on a real model: MiniLM rewritten from PyTorch and from its ONNX export, with a retrieval metric before and after.

python -P -m szilard.benchmarks.demo [--out FOLDER]
"""

import argparse
import logging
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
    logging.disable(logging.WARNING)
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

    def said(text: str) -> None:
        if not text.startswith(("timing model", "error of")):
            console.print(f"{time.perf_counter() - started:5.0f} s  {text}", style="dim", soft_wrap=True)

    onnx_file = minilm.export(folder)
    inputs = {"ONNX": (str(onnx_file), None), "PyTorch": (minilm.load(), minilm.sample())}
    table = Table(title="all-MiniLM-L6-v2 on this CPU, mean of 1x128 and 8x128", title_justify="left")
    for heading in ("model", "runs on", "seconds", "after", "share", "joules*", "after", "recall@1", "after", "cosine"):
        table.add_column(heading, justify="left" if heading in ("model", "runs on") else "right", no_wrap=True)
    for name, (model, sample) in inputs.items():
        out = folder / f"from-{name.lower()}"
        result = rewrite(model, sample, out=out, force=True, progress=said, **arguments)
        for done in result.optimised:
            row = result.report["runtimes"][done.backend.runtime]
            seconds, joules, error = row["seconds"], row["joules"], row["error"]
            cells = (
                f"{seconds['before'] * 1e3:.1f} ms", f"{seconds['after'] * 1e3:.1f} ms", f"{seconds['after'] / seconds['before']:.2f}",
                f"{joules['before']:.3f} J", f"{joules['after']:.3f} J",
                f"{error['metric_before'] or 0:.3f}", f"{error['metric_after'] or 0:.3f}", f"{_cosine(done, tokenizer):.4f}",
            )  # fmt: skip
            table.add_row(name, done.backend.runtime, *cells)
    console.print(table)
    console.print("* modelled from the cpu profile; all the rest is measured here. Why each choice: szilard explain FOLDER")
    for name in inputs:
        console.print(f"  {folder}/from-{name.lower()}/report.html", soft_wrap=True)
    console.print(f"demo: done in {time.perf_counter() - started:.0f} s")


def _cosine(done: Any, tokenizer: Any) -> float:
    """Mean cosine of 100 embeddings before and after."""
    lines = [line for _, line in pairs()[:100]]
    found = []
    for program in (done.original, done.program):
        with done.backend.runner(program.graph) as run:
            found.append(embedder(run, tokenizer, minilm.INPUTS)(lines))
    return mean_cosine(*found)


if __name__ == "__main__":
    main()
