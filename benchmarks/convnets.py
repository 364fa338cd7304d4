"""Convolutional networks on u8 codes as szilard rewrites them, against fp32 and onnxruntime's own static quantiser: time, and how often
EfficientNet-Lite0 gives the class that fp32 gives, and what PP-OCRv6 reads wrong. One interleaved run each.

python -P -m szilard.benchmarks.convnets [efficientnet|recognition] [--budget 0.004] [--rounds 9] [--threads 2]
"""

import argparse
import hashlib
import json
import logging
import os
import platform
import statistics
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from platformdirs import user_cache_path
from rich.console import Console
from rich.table import Table

from ..cost_model.timing import median_interval, ratio_interval
from ..models import photographs, rapidocr
from ..rewriter.rewrite import rewrite
from .cpu_zoo import ZOO
from .interleaved import measure, open_session
from .minilm import processor

RESULTS = Path(__file__).parent / "results"
FP32, PEER, OURS = "fp32", "onnxruntime quantize_static", "szilard"
CROPS = 200


@dataclass(frozen=True)
class Network:
    """A file, what to calibrate it on, the shape at which it is timed, and what is measured of its outputs against the fp32 file's."""

    zoo: str
    phase: str
    shape: tuple[int, ...]
    budget: float
    calibration: Callable[[], list[dict[str, np.ndarray]]]
    quality: Callable[[Mapping[str, Path], int], dict[str, dict[str, float]]]


def agreement(files: Mapping[str, Path], threads: int) -> dict[str, dict[str, float]]:
    """Share of crops of photographs, none of which is calibrated on, that get the class that the fp32 file gives them."""
    images = photographs.crops(CROPS, photographs.HELD_OUT)
    classes: dict[str, np.ndarray] = {}
    for name, path in files.items():
        session = open_session(path, threads)
        classes[name] = np.array([session.run(None, {"image": image[None]})[0].argmax() for image in images])
        del session
    return {name: {"agreement": float((found == classes[FP32]).mean())} for name, found in classes.items()}


def reading(files: Mapping[str, Path], threads: int) -> dict[str, dict[str, float]]:
    """Edits per character of drawn lines, none of which is calibrated on, clean and noisy."""
    alphabet, found = rapidocr.characters(files[FP32]), {}
    for name, path in files.items():
        session = open_session(path, threads)
        outputs = [output.name for output in session.get_outputs()]

        def run(
            inputs: dict[str, np.ndarray], session: Any = session, outputs: Sequence[str] = outputs
        ) -> dict[str, np.ndarray]:
            return dict(zip(outputs, session.run(None, inputs), strict=True))

        found[name] = {f"error, noise {noise}": rapidocr.character_error(run, alphabet, noise=noise) for noise in (0, 8, 20)}
        del session, run
    return found


NETWORKS = {
    "efficientnet": Network(
        "efficientnet", "1x3x224x224", (1, 3, 224, 224), 0.004,
        lambda: [{"image": crop[None]} for crop in photographs.crops(48, photographs.CALIBRATION, seed=1)], agreement,
    ),
    "recognition": Network("recognition", "1x3x48x320", (1, 3, 48, 320), 0.05, lambda: rapidocr.line_calibration(80), reading),
}  # fmt: skip


def quantized(source: Path, target: Path, samples: Sequence[dict[str, np.ndarray]]) -> None:
    """The file that onnxruntime's static quantiser makes: u8 activations, s8 weights a channel, in the operator set 17."""
    pending = iter(samples)

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(pending, None)

    model = onnx.load(source)
    if model.opset_import[0].version < 13:
        model = onnx.version_converter.convert_version(model, 17)
    del model.graph.value_info[:]
    quantize_static(model, target, Reader(), per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)


def peer(name: str, source: Path, cache: Path, samples: Sequence[dict[str, np.ndarray]]) -> dict[str, Path]:
    """The peer's file, made once and kept; none where the tool fails, which is printed."""
    seen = hashlib.sha256(b"".join(array.tobytes() for sample in samples for array in sample.values())).hexdigest()[:8]
    path = cache / f"{name}-quantize-static-{onnxruntime.__version__}-{seen}.onnx"
    if not path.exists():
        logging.getLogger().setLevel(logging.ERROR)
        with tempfile.TemporaryDirectory(dir=cache) as work, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                quantized(source, Path(work) / "model.onnx", samples)
                open_session(Path(work) / "model.onnx", 1)
            except Exception as fault:
                print(f"{PEER} fails on {name}: {str(fault).splitlines()[0]}")
                return {}
            os.replace(Path(work) / "model.onnx", path)
    return {PEER: path}


def compare(name: str, chosen: argparse.Namespace, cache: Path) -> dict[str, Any]:
    """Everything measured of one network, as it is written to JSON."""
    network = NETWORKS[name]
    source = next(each for each in ZOO if each.name == network.zoo).file(cache)
    samples = network.calibration()
    budget = chosen.budget or network.budget
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        made = rewrite(source, target="cpu", calibration=samples, workload=[network.phase], budget=budget, out=out)
        files = {FP32: source, **peer(name, source, cache, samples), OURS: out / "model.onnx"}
        inputs = {next(iter(samples[0])): np.random.default_rng(0).standard_normal(network.shape).astype(np.float32)}
        seconds = measure(files, {network.phase: inputs}, chosen.threads, chosen.rounds)[network.phase]
        quality = network.quality(files, chosen.threads)
    actions = [choice.action for choice in made.plan.choices if choice.kind == "conv"]
    fields = ("median", "low", "high")
    return {
        "benchmark": f"convnets {name}",
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"system": f"{platform.system()} {platform.machine()}", "processor": processor(), "threads": chosen.threads},
        "versions": {"python": platform.python_version(), "onnxruntime": onnxruntime.__version__},
        "rounds": chosen.rounds,
        "budget": budget,
        "error": made.report["error"]["measured"],
        "convolutions": {action: actions.count(action) for action in sorted(set(actions))},
        "seconds": {
            file: dict(zip(fields, (statistics.median(t), *median_interval(t)), strict=True)) for file, t in seconds.items()
        },
        "ratio_to_fp32": {
            file: dict(zip(fields, ratio_interval(t, seconds[FP32]), strict=True)) for file, t in seconds.items()
        },
        "quality": quality,
    }


def show(name: str, result: Mapping[str, Any], console: Console) -> None:
    """One table: time as a share of fp32, and what was measured of the outputs."""
    columns = list(result["quality"][FP32])
    table = Table(
        "file", "ms", "of fp32 (interval)", *columns, title=f"measured: {name}, {result['machine']['threads']} threads"
    )
    for file, found in result["quality"].items():
        ratio = result["ratio_to_fp32"][file]
        cell = f"{ratio['median']:.3f} ({ratio['low']:.3f}-{ratio['high']:.3f})"
        table.add_row(file, f"{1e3 * result['seconds'][file]['median']:.2f}", cell, *(f"{found[key]:.4f}" for key in columns))
    console.print(table)
    held = ", ".join(f"{count} {action}" for action, count in result["convolutions"].items())
    console.print(f"budget {result['budget']:g}, measured error {result['error']:.2g} on held-out data; convolutions: {held}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Rewrites each network, times it in turn with fp32 and the peer, prints the tables and writes benchmarks/results/convnets-*.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="*", choices=[*NETWORKS, []], default=[])
    parser.add_argument("--budget", type=float, help="the largest relative squared error, in the place of the network's own")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args(arguments)
    cache = user_cache_path("szilard", appauthor=False, ensure_exists=True) / "benchmarks"
    cache.mkdir(exist_ok=True)
    RESULTS.mkdir(exist_ok=True)
    for name in chosen.network or NETWORKS:
        result = compare(name, chosen, cache)
        show(name, result, Console(width=160))
        path = RESULTS / f"convnets-{name}-{chosen.threads}-threads.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written to benchmarks/results/{path.name}")


if __name__ == "__main__":
    main()
