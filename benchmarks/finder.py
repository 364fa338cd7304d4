"""What the finder finds of the attentions that the configurations of 24 transformers architectures ask for, in both spellings, as torch
and as ONNX models, and what an exact rewrite of each leaves of the outputs: python -P -m szilard.benchmarks.finder [--cache DIR].

Writes benchmarks/results/finder.json when it was asked for all of them.
"""

import argparse
import importlib.metadata
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..cost_model.errors import SzilardError
from ..cost_model.plan import Choice
from ..cost_model.program import Program
from ..cost_model.sites import AttentionSite
from ..models.architectures import ARCHITECTURES, BATCH, LENGTH, SPELLINGS
from ..passes.find_attention import find_attention
from ..passes.fx_attention import refusal as torch_refusal
from ..passes.onnx_attention import refusal as onnx_refusal
from ..rewriter.backend import Arrays, Backend
from ..rewriter.backend_onnx import OnnxBackend
from ..rewriter.backend_torch import TorchBackend
from ..rewriter.json_text import json_text
from ..rewriter.runtime_onnx import open_session, run_session
from .finder_cases import ROADS, Case, cases, program_of

ACTION = "fused_attention"
RESULTS = Path(__file__).parent / "results"

LARGEST_ERROR = 2e-5
"""Of the largest output, in float32: sums in another order, over a handful of layers."""


@dataclass(frozen=True)
class Outcome:
    """`kept` are operators that stand as they are, `rewritten` became one, `refused` says why the rest of the found ones did not: they
    stay as they are spelled, right but slow, and count as not covered.
    `error` is the largest difference of an output over the largest output, at two sizes of the inputs where the model has free axes."""

    expected: int
    kept: int = 0
    rewritten: int = 0
    refused: tuple[str, ...] = ()
    missed: tuple[str, ...] = ()
    error: float = 0.0
    fault: str = ""

    @property
    def found(self) -> int:
        return self.kept + self.rewritten + len(self.refused)

    @property
    def covered(self) -> int:
        """Sites that are kept or rewritten, no more than there are."""
        return min(self.kept + self.rewritten, self.expected)

    @property
    def wrong(self) -> bool:
        """Whether a rewrite changed what the model computes, or something was found that is no attention."""
        return self.found > self.expected or not self.error <= LARGEST_ERROR

    def cell(self) -> str:
        """ "6/6 r4 1e-07": found of expected, how many of them were rewritten, and the error after that."""
        if self.fault:
            return f"{self.found}/{self.expected} failed"
        parts = [f"{self.found}/{self.expected}", *([f"r{self.rewritten} {self.error:.0e}"] if self.rewritten else [])]
        return " ".join([*parts, *([f"refused {len(self.refused)}"] if self.refused else [])])


def outcome(case: Case, cache: Path) -> Outcome:
    """One case. A model that cannot be exported or run counts as one in which nothing was found, and says why in `fault`."""
    expected = case.made.attentions()
    try:
        program = program_of(case, cache)
        return judged(case, program, expected)
    except (SzilardError, RuntimeError) as fault:
        return Outcome(expected, fault=f"{type(fault).__name__}: {str(fault).splitlines()[0]}")


def judged(case: Case, program: Program, expected: int) -> Outcome:
    """What is found in a program and what is left of its outputs when all that can be is rewritten, as `szilard rewrite` would do it."""
    torch = program.runtime == "torch"
    backend: Backend = TorchBackend(program) if torch else OnnxBackend(program.sample)
    graph = backend.clone(program.graph)
    backend.clean_up(graph)
    net = backend.view(graph, {name: array.shape for name, array in program.sample.items()})
    sites, misses = find_attention(net)
    refusals = {site.id: (torch_refusal if torch else onnx_refusal)(site, net) for site in sites if site.form == "walk"}
    chosen = {site.id: site for site in sites if site.form == "walk" and not refusals[site.id]}
    rewritten = backend.clone(graph)
    changed = _rewrite(backend, rewritten, chosen) if chosen else 0
    backend.lint(rewritten)
    error = max((_error(backend, program.graph, rewritten, feeds) for feeds in _feeds(case, program)), default=0.0)
    kept = sum(site.form != "walk" for site in sites)
    refused = tuple(reason for reason in refusals.values() if reason)
    return Outcome(expected, kept, changed, refused, tuple(miss.reason for miss in misses), error)


def _rewrite(backend: Backend, graph: Any, sites: Mapping[str, AttentionSite]) -> int:
    choice = Choice("all", "attention", ACTION, (), tuple(sites), backend.runtime, "")
    return sum(each.apply(graph, [choice], sites) for actions, each in backend.passes({}) if ACTION in actions)


def _feeds(case: Case, program: Program) -> list[Arrays]:
    """The sample, and inputs padded at the other end, of other sizes wherever the program leaves them free."""
    sizes = {(name, axis) for name, axes in program.dynamic.items() for axis in axes}
    free_batch = all((name, 0) in sizes for name in program.inputs)
    free_length = ("input_ids", 1) in sizes
    other = case.made.inputs(BATCH + free_batch, LENGTH + 4 * free_length, seed=11, padded_first=True)
    return [program.sample, {name: other[name].numpy() for name in program.inputs}]


def _error(backend: Backend, before: Any, after: Any, feeds: Arrays) -> float:
    expected, found = (_run(backend, graph, feeds) for graph in (before, after))
    worst = 0.0
    for name, want in expected.items():
        got = found[name]
        if want.shape != got.shape or want.dtype != got.dtype or (np.isnan(want) != np.isnan(got)).any():
            return float("inf")
        apart = np.nanmax(np.abs(want.astype(np.float64) - got.astype(np.float64)), initial=0.0)
        worst = max(worst, float(apart) / max(1.0, float(np.nanmax(np.abs(want), initial=0.0))))
    return worst


def _run(backend: Backend, graph: Any, feeds: Arrays) -> dict[str, np.ndarray]:
    """Outputs by name, copied. onnxruntime's own optimiser is off: it would fuse a plain attention too, and there would be no difference
    to see."""
    if backend.runtime == "onnxruntime":
        with open_session(graph, optimize=False) as session:
            return run_session(session, feeds)
    with backend.runner(graph) as run:
        return {name: np.array(array) for name, array in run(feeds).items()}


def table(outcomes: Mapping[Case, Outcome]) -> str:
    """A row for each architecture, a column for each spelling and road; below it every refusal and fault; last the share and the wrong."""
    columns = [(spelling, road) for road in ROADS for spelling in SPELLINGS]
    rows = [["found/expected rRewritten error", *(f"{road} {spelling}" for spelling, road in columns)]]
    for name in dict.fromkeys(case.architecture for case in outcomes):
        cells = [outcomes.get(Case(name, spelling, road)) for spelling, road in columns]
        rows.append([name, *("-" if cell is None else cell.cell() for cell in cells)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, *_remarks(outcomes), summary(outcomes)])


def _remarks(outcomes: Mapping[Case, Outcome]) -> list[str]:
    said: Counter[tuple[str, str]] = Counter()
    for case, found in outcomes.items():
        where = f"{case.architecture} {case.spelling}, {case.road}"
        for kind, sentences in (
            ("refused", found.refused),
            ("missed", found.missed),
            ("failed", (found.fault,) if found.fault else ()),
        ):
            if sentences and (kind != "missed" or found.found < found.expected):
                said[kind, f"{where}: {sentences[0]}"] += len(sentences)
    return [f"{kind} ({count}) {sentence}" for (kind, sentence), count in said.items()]


def summary(outcomes: Mapping[Case, Outcome]) -> str:
    """The last line: the share of sites kept or rewritten, and the wrong rewrites."""
    total = totals(outcomes)
    return (
        f"{total['covered']} of {total['expected']} sites ({total['share']:.1%}) kept ({total['kept']}) or rewritten "
        f"({total['rewritten']}), {total['refused']} refused, {total['wrong']} wrong rewrites."
    )


def totals(outcomes: Mapping[Case, Outcome]) -> dict[str, float]:
    """Sums over all cases, the share that is covered, and the largest error."""
    every = list(outcomes.values())
    found: dict[str, float] = {
        name: sum(getattr(each, name) for each in every) for name in ("expected", "covered", "kept", "rewritten")
    }
    found["refused"] = sum(len(each.refused) for each in every)
    found["wrong"] = sum(each.wrong for each in every)
    return found | {
        "share": found["covered"] / max(1, found["expected"]), "cases": len(every), "failed": sum(bool(each.fault) for each in every),
        "largest_error": max((each.error for each in every), default=0.0),
    }  # fmt: skip


def record(outcomes: Mapping[Case, Outcome]) -> dict[str, Any]:
    """What goes into the file."""
    packages = ("torch", "onnx", "onnxscript", "transformers")
    return {
        "benchmark": "finder",
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "totals": totals(outcomes),
        "summary": summary(outcomes),
        "cases": [asdict(case) | asdict(found) for case, found in outcomes.items()],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table; models are exported anew unless --cache names a folder that holds them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "architectures", nargs="*", metavar="ARCHITECTURE", help=f"of {', '.join(ARCHITECTURES)} (default: all)"
    )
    parser.add_argument("--cache", type=Path, help="folder in which exported models are kept")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="szilard-") as scratch:
        folder = given.cache or Path(scratch)
        outcomes = {case: outcome(case, folder) for case in cases(tuple(given.architectures) or tuple(ARCHITECTURES))}
    print(table(outcomes))
    if not given.architectures:
        (RESULTS / "finder.json").write_text(json_text(record(outcomes)), encoding="utf-8")


if __name__ == "__main__":
    main()
