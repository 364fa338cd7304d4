"""Errors of whole plans of MiniLM, predicted as the sum of those of its parts, against measured: random plans of about the same error.

python -P -m szilard.benchmarks.error_prediction [--plans 20] [--target 0.004]

Each plan takes a random format at every group of linears and is tried until its predicted error lies within a factor of three of the
others'. It is then made by the passes that rewrite a model, and run in onnxruntime on the samples of the scoring half of the calibration
texts that errors were predicted on, and on all of the held-out half, by which the line is judged.
"""

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from platformdirs import user_cache_path
from scipy.stats import spearmanr

from ..cost_model.plan import Choice
from ..kernels.quantized_linear.formats import FORMATS
from ..models import minilm, texts
from ..passes.find import find
from ..rewriter.backend import Group, groups_of
from ..rewriter.backend_onnx import OnnxBackend
from ..rewriter.calibration_data import read_calibration, relative_error
from ..rewriter.load import load
from ..rewriter.score import Score, representative, score_linears

RESULTS = Path(__file__).parent / "results"
MUST = 0.9
FACTOR = 3.0
Scores = dict[tuple[str, str], Score]


def random_plan(random: np.random.Generator, groups: list[Group], scores: Scores, low: float, high: float) -> dict[str, str]:
    """A format ("leave" too) for each group, at random, whose errors add up to between `low` and `high`."""
    options = {g.id: {"leave": 0.0, **{f: scores[g.id, f].error for f in FORMATS}} for g in groups}
    while True:
        wanted = np.exp(random.uniform(np.log(low), np.log(high)))
        plan = {name: str(random.choice(list(errors))) for name, errors in options.items()}
        for name in random.permutation(list(options)):
            total = sum(options[site][taken] for site, taken in plan.items())
            if low <= total <= high:
                return plan
            # A site too large or too small at a time is drawn again, towards what is wanted.
            better = [f for f, e in options[name].items() if (e < options[name][plan[name]]) == (total > wanted)]
            plan[str(name)] = str(random.choice(better)) if better else plan[name]


def made(backend: OnnxBackend, graph: Any, groups: list[Group], scores: Scores, plan: dict[str, str]) -> Any:
    """The model with a plan applied by the passes of a rewrite."""
    choices = [
        Choice(g.id, g.kind, plan[g.id], (), tuple(s.id for s in g.sites), backend.runtime, "")
        for g in groups
        if plan[g.id] != "leave"
    ]
    prepared = {site: p for c in choices for site, p in scores[c.site, c.action].prepared.items()}
    clone, sites = backend.clone(graph), {site.id: site for group in groups for site in group.sites}
    for actions, rewrite in backend.passes(prepared):
        mine = [choice for choice in choices if choice.action in actions]
        if mine:
            rewrite.apply(clone, mine, sites)
    return clone


def run(plans: int, low: float) -> dict[str, Any]:
    """Everything measured, as it is written to JSON."""
    source = minilm.export(user_cache_path("szilard", appauthor=False) / "benchmarks")
    program = load(source).program
    data = read_calibration(texts.calibration(minilm.tokenizer(), minilm.INPUTS), program)
    assert data is not None
    backend, graph = OnnxBackend(program.sample), program.graph
    backend.clean_up(graph)
    net = backend.view(graph, dict.fromkeys(program.inputs, (1, 128)))
    groups = [group for group in groups_of(find(net).sites) if group.kind == "linear"]
    written = [value for group in groups for value in group.outputs]
    read = list(dict.fromkeys(getattr(group.sites[0], "x", "") for group in groups))
    with backend.probe(graph, list(dict.fromkeys([*read, *written])), written) as probe:
        scores = score_linears(dict.fromkeys(groups, FORMATS), net, probe, data.scoring)
    samples = {"scoring": representative(data.scoring), "held_out": data.held_out}
    with backend.runner(graph) as runner:
        reference = {name: [runner(sample) for sample in found] for name, found in samples.items()}
    random = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for number in range(plans):
        plan = random_plan(random, groups, scores, low, FACTOR * low)
        with backend.runner(made(backend, graph, groups, scores, plan)) as runner:
            measured = {
                name: relative_error([runner(s) for s in found], reference[name], found) for name, found in samples.items()
            }
        predicted = sum(scores[site, action].error for site, action in plan.items() if action != "leave")
        rows.append({"predicted": predicted, **measured, "actions": plan})
        print(
            f"plan {number}: predicted {predicted:.5f}, measured {measured['scoring']:.5f}, held out {measured['held_out']:.5f}",
            flush=True,
        )
    ranks = {name: float(spearmanr([r["predicted"] for r in rows], [r[name] for r in rows]).statistic) for name in samples}
    ratios = [row["scoring"] / row["predicted"] for row in rows]
    return {
        "benchmark": "error_prediction",
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "must": f"rank correlation at least {MUST:g}",
        "met": ranks["held_out"] >= MUST,
        "rank_correlation": ranks,
        "measured_to_predicted": {"low": min(ratios), "median": float(np.median(ratios)), "high": max(ratios)},
        "plans": rows,
    }


def main() -> None:
    """Prints every plan and the rank correlations, and writes benchmarks/results/error_prediction.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plans", type=int, default=20)
    parser.add_argument("--target", type=float, default=0.004, help="the smallest predicted error of a plan")
    chosen = parser.parse_args()
    result = run(chosen.plans, chosen.target)
    ranks, ratios = result["rank_correlation"], result["measured_to_predicted"]
    print(
        f"rank correlation of predicted with measured errors: {ranks['scoring']:.3f}, on held-out texts {ranks['held_out']:.3f}"
    )
    print(f"measured / predicted: {ratios['low']:.2f} to {ratios['high']:.2f}, median {ratios['median']:.2f}")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "error_prediction.json").write_text(json.dumps(result, indent=1) + "\n")
    print("written to benchmarks/results/error_prediction.json")


if __name__ == "__main__":
    main()
