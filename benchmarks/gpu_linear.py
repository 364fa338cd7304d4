"""Linear layers on a GPU in int8, int4 and fp8: errors against float64, seconds and joules of a call beside torch's bf16, torchao and the
time that memory needs, in one interleaved run.

python -P -m szilard.benchmarks.gpu_linear [--tune] [--device cuda] [--minutes 5.5] [--fresh] [--out FOLDER]

Each way is warmed, captured as a CUDA graph and timed in turn with the others, over as many copies of its weights as no cache holds;
medians. First all cases are timed, then their joules are measured. Every case is written to the JSON file as soon as it is done, and a
later run goes on from there. --tune looks for the fastest tiles of every kernel of ours and writes
kernels/linear_parts/tuning/<gpu>.json, which later runs use.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from ..cost_model.meter import Meter, open_meter
from ..cost_model.whole_file import write_whole
from ..kernels.linear_parts import tuning
from ..kernels.linear_parts.triton_parts import card
from ..rewriter.candidates import code_digest
from .gpu_attention_ways import captured, seconds
from .gpu_linear_tuner import tune
from .gpu_linear_ways import BASE, COLD_BYTES, Case, Operands, torchao_missing

RESULTS = Path(__file__).parent / "results"
ROWS = (1, 4, 16, 64, 256, 1024, 4096)
WIDTHS = (4096, 8192, 14336)
CASES = tuple(Case(rows, width) for width, rows in product(WIDTHS, ROWS))
EFFORT = {"least_seconds": 0.15, "most_seconds": 1.0, "warm_seconds": 0.2, "settle_seconds": 0.1, "half_width": 0.02}
"""Short windows: 189 ways are measured in a few minutes. A load that one window cannot tell from the counter's period gets a wide interval,
which is reported."""
NO_DEVICE = "gpu_linear: torch sees no CUDA device, so there is nothing to time; run it where a GPU is at hand."
Row = dict[str, Any]


def timed(case: Case, operands: Operands, bandwidth: float) -> Row:
    """Seconds and errors of one case in every way."""
    runs = operands.runs(case.rows)
    samples, refused = seconds({name: run for name, (run, _) in runs.items()}, operands.device)
    rounds = {name: [value / runs[name][1] for value in values] for name, values in samples.items()}
    medians = {name: median(values) for name, values in rounds.items()}
    floors = {name: case.least_bytes(operands.forms[name].bits) / bandwidth for name in medians}
    errors, own = operands.errors(case.rows, medians)
    return {
        "case": asdict(case),
        "seconds": medians,
        "rounds": rounds,
        "refused": {**operands.refused, **refused},
        "times the base": {name: medians[BASE] / value for name, value in medians.items()},
        "memory seconds": floors,
        "share of the roofline": {name: floors[name] / medians[name] for name in medians},
        "errors": errors,
        "errors of the kernels": own,
        "dispatch": dispatches(case, operands),
    }


def dispatches(case: Case, operands: Operands) -> dict[str, str]:
    """Which kernel runs each way of ours, with which tiles."""
    gpu, processors = card(operands.weight.device)
    shape = case.rows, case.width, case.width
    return {
        name: str(tuning.dispatch(form.kernel, *shape, form.group, case.dtype, gpu, processors))
        for name, form in operands.forms.items()
        if form.kernel
    }


def joules(case: Case, operands: Operands, meter: Meter, names: Sequence[str], synchronise: Callable[[], object] | None) -> Row:
    """Joules of one call in each way, with their interval, or why there are none."""
    runs = operands.runs(case.rows)
    ready = {name: captured(runs[name][0]) if operands.device != "cpu" else runs[name][0] for name in names}
    readings = meter.energies(ready, synchronise=synchronise, **EFFORT)
    found: Row = {}
    for name, reading in readings.items():
        figures = {"joules": reading.joules, "low": reading.low, "high": reading.high}
        found[name] = {key: None if value is None else value / runs[name][1] for key, value in figures.items()}
        found[name] |= {"label": reading.label, "reason": reading.reason}
    return found


def memory_bandwidth(device: str) -> float:
    """Bytes a second, read and written, of torch's copy of more than any cache holds."""
    source = torch.empty(int(1e9 if device != "cpu" else 1e7), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    samples, _ = seconds({"copy": lambda: target.copy_(source)}, device)
    return 2 * source.numel() / median(samples["copy"])


def run(
    path: Path,
    device: str,
    minutes: float,
    meter: Meter,
    console: Console,
    cases: Sequence[Case] = CASES,
    clock: Callable[[], float] = time.monotonic,
) -> Row:
    """Does what `path` does not hold yet, until the minutes are over, and keeps each case as it is done."""
    name = "cpu" if device == "cpu" else torch.cuda.get_device_name(device)
    stamp = {"device": name, "torch": torch.__version__, "python": platform.python_version(), "code": code_digest()}
    stamp |= {peer: version(peer) for peer in ("triton", "torchao") if find_spec(peer)}
    stamp["label"] = "simulated: only that the script runs" if device == "cpu" else "measured"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    data: Row = kept if {key: kept.get(key) for key in stamp} == stamp else {**stamp, "rows": {}}
    data |= {"meter": meter.reason, "peers": torchao_missing() or "torchao is among the peers"}
    end, held = clock() + 60 * minutes, None
    data.setdefault("bandwidth", memory_bandwidth(device))
    synchronise = None if device == "cpu" else torch.cuda.synchronize
    for stage, case in product(("seconds", "joules"), cases):
        row = data["rows"].setdefault(case.name, {})
        if stage in row:
            continue
        if clock() > end:
            console.print(f"{minutes:g} minutes are over; the next run goes on with: {stage} of {case.name}")
            break
        if held is None or held.width != case.width:
            held = None  # frees the memory of the last width before the next one's is taken
            held = Operands(case.width, device, case.dtype, cold_bytes=1.0 if device == "cpu" else COLD_BYTES)
        if stage == "seconds":
            row |= timed(case, held, data["bandwidth"])
        else:
            row["joules"] = joules(case, held, meter, list(row["seconds"]), synchronise)
        write_whole(path, json.dumps(data, indent=1) + "\n")
    data["rows"] = {key: row for key, row in data["rows"].items() if row}
    return data


def table(data: Row) -> Table:
    """A line for each case and way."""
    heads = ("case", "way", "us", f"times {BASE}", "of the roofline", "error", "of the kernel", "joules")
    found = Table(*heads, title=f"{data['device']}: {data['label']}; {data['peers']}")
    for key, row in data["rows"].items():
        for name, value in row["seconds"].items():
            own, spent = row["errors of the kernels"].get(name), row.get("joules", {}).get(name, {})
            shown = "-" if not spent else spent["label"] if spent["joules"] is None else f"{spent['joules']:.3g}"
            figures = (
                f"{row['times the base'][name]:.2f}",
                f"{row['share of the roofline'][name]:.0%}",
                f"{row['errors'][name]:.2g}",
            )
            found.add_row(key, name, f"{value * 1e6:.1f}", *figures, "-" if own is None else f"{own:.2g}", shown)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the cases, or tunes, and prints what was found and where it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tune", action="store_true", help="look for the fastest tiles and write this GPU's tuning table")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=5.5, help="no case begins after so many")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier run found")
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args(arguments)
    if chosen.device == "cpu" or not torch.cuda.is_available():
        raise SystemExit(NO_DEVICE)
    console = Console(width=150)
    if chosen.tune:
        place = tuning.FOLDER / f"{tuning.file_name(torch.cuda.get_device_name(chosen.device))}.json"
        if chosen.fresh:
            place.unlink(missing_ok=True)
        console.print(tune(place, chosen.device, chosen.minutes, WIDTHS))
        console.print(f"table: {place}")
        return
    path = chosen.out / "gpu-linear.json"
    if chosen.fresh:
        path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    console.print(table(run(path, chosen.device, chosen.minutes, open_meter(chosen.device), console)))
    console.print(f"results: {path}")


if __name__ == "__main__":
    main()
