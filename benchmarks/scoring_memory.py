"""SmolLM2 scored by gradients in little memory: what a process of its own holds at most, and that it goes on behind a SIGKILL.

python -P -m szilard.benchmarks.scoring_memory [--tokens 128] [--texts 4]

Counted is the resident set of the process that scores, as Linux knows it (VmHWM of /proc/self/status, whose mark is set back once the model
is loaded and traced), less its resident set before it loads the model, when everything that tracing imports has been (a tiny module was
traced). The weights themselves are in it.
"""

import argparse
import ctypes
import gc
import json
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
MOST = 2.0
"""Times the weights that scoring may hold."""
FORMATS = ("int4_weight", "int8_static")


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process [bytes]."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def score(folder: Path, tokens: int, texts: int, memory_share: float | None) -> dict[str, Any]:
    """Score every format of every linear of SmolLM2 in this process, kept in `folder`; says what it held."""
    import torch
    import transformers  # noqa: F401  part of the interpreter's baseline

    from ..models import smollm
    from ..models.texts import passages
    from ..passes.find import find
    from ..rewriter.backend import groups_of
    from ..rewriter.backend_torch import TorchBackend
    from ..rewriter.score_file import ScoreFile
    from ..rewriter.score_fisher import score_by_gradients
    from ..rewriter.trace_torch import trace_module

    tokenizer = smollm.tokenizer()
    trace_module(torch.nn.Linear(2, 2).eval(), {"input": torch.ones(3, 2)})
    baseline = resident("VmRSS")
    ids = [tokenizer(text, return_tensors="np")["input_ids"][:, :tokens] for text in passages()[:texts]]
    program = trace_module(smollm.load(), smollm.sample())
    weights = sum(each.numel() * each.element_size() for each in program.graph.parameters())
    backend = TorchBackend(program)
    backend.clean_up(program.graph)
    net = backend.view(program.graph, {smollm.INPUT: (1, tokens)})
    groups = [group for group in groups_of(find(net).sites) if group.kind == "linear"]
    loading = resident("VmHWM")
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    loaded = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    file = ScoreFile(folder, {"benchmark": "scoring_memory", "tokens": tokens, "texts": texts})
    known = file.scores()
    started = time.perf_counter()

    def keep(key: tuple[str, str], found: Any) -> None:
        file.keep("linear", key, found)
        print(json.dumps({"scored": len(file.scores())}), flush=True)

    found = score_by_gradients(
        dict.fromkeys(groups, FORMATS),
        program.graph,
        net,
        program.inputs,
        program.outputs,
        [{smollm.INPUT: each} for each in ids],
        memory=None if memory_share is None else memory_share * weights,
        known=known,
        keep=keep,
    )
    file.write()
    return {
        "groups": len(groups),
        "options": len(found),
        "known_before": len(known),
        "seconds": time.perf_counter() - started,
        "weights_bytes": weights,
        "baseline_bytes": baseline,
        "loading_peak_bytes": loading - baseline,
        "loaded_bytes": loaded - baseline,
        "peak_bytes": resident("VmHWM") - baseline,
        "peak_in_weights": (resident("VmHWM") - baseline) / weights,
        "errors": {"\n".join(key): each.error for key, each in sorted(found.items())},
    }


def started(folder: Path, arguments: argparse.Namespace, memory_share: float | None) -> subprocess.Popen[str]:
    """A process of its own that scores."""
    command = [sys.executable, "-P", "-m", "szilard.benchmarks.scoring_memory", "--score", str(folder)]
    command += ["--tokens", str(arguments.tokens), "--texts", str(arguments.texts), "--share", str(memory_share or 0)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a process printed last."""
    assert process.stdout is not None
    lines = process.stdout.read().splitlines()
    if process.wait():
        raise SystemExit(f"The scoring process failed with {process.returncode}.")
    return json.loads(lines[-1])


def main() -> None:
    """Scores once whole in low-memory mode, once killed in the middle and taken up again; prints and writes both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--texts", type=int, default=4)
    parser.add_argument("--share", type=float, default=0.125, help="of the weights, that results of a block may take")
    parser.add_argument("--score", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.score is not None:
        print(json.dumps(score(chosen.score, chosen.tokens, chosen.texts, chosen.share or None)))
        return
    with tempfile.TemporaryDirectory() as work:
        killed = started(Path(work) / "killed", chosen, chosen.share)
        assert killed.stdout is not None
        for line in killed.stdout:
            if json.loads(line).get("scored", 0) >= 100:
                killed.send_signal(signal.SIGKILL)
                break
        killed.wait()
        resumed = finished(started(Path(work) / "killed", chosen, chosen.share))
        whole = finished(started(Path(work) / "whole", chosen, chosen.share))
    same = resumed["errors"] == whole["errors"]
    print(f"SmolLM2, {whole['options']} options of {whole['groups']} groups, {chosen.texts} texts of {chosen.tokens} tokens:")
    print(
        f"  resident at peak above the interpreter: {whole['peak_bytes'] / 1e6:.0f} MB, {whole['peak_in_weights']:.2f} times the weights"
    )
    print(f"  behind SIGKILL (code {killed.returncode}): {resumed['known_before']} of {resumed['options']} options were there, "
          f"{'the same errors came out' if same else 'OTHER ERRORS CAME OUT'}")  # fmt: skip
    print(f"  {whole['seconds']:.0f} s whole, {resumed['seconds']:.0f} s taken up again")
    result = {
        "benchmark": "scoring_memory",
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "must": f"peak at most {MOST:g} times the weights",
        "met": whole["peak_in_weights"] <= MOST and same and resumed["known_before"] > 0,
        "same_after_sigkill": same,
        "whole": whole,
        "resumed": {key: value for key, value in resumed.items() if key != "errors"},
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "scoring_memory.json").write_text(json.dumps(result, indent=1) + "\n")
    print("written to benchmarks/results/scoring_memory.json")


if __name__ == "__main__":
    main()
