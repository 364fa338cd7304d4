"""Error budgets asked of a rewrite against what came out on held-out data, and its joules against the solver's bound; and a model where
nothing pays.

python -P -m szilard.benchmarks.error_budget [--budgets 0.02 0.01 0.005 0.002 0.0005]

The bound is what no plan of the table of prices and errors can undercut at the limit on the predicted error under which the plan was
decided last: the budget, or less where the held-out error was more than the predicted one and the plan was decided again. Both are given.
"""

import argparse
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path
from rich.console import Console
from rich.table import Table as RichTable

from ..cost_model.plan import Budget
from ..models import minilm, rapidocr, silero, texts
from ..rewriter.frontier import read_tables
from ..rewriter.rewrite import rewrite
from ..rewriter.runtime_onnx import onnx_runner

RESULTS = Path(__file__).parent / "results"
MUST = 0.02
"""Share of the solver's bound that joules may lie above it."""


def model_of(name: str) -> tuple[Any, dict[str, Any]]:
    """(model, options of a rewrite)."""
    cache = user_cache_path("szilard", appauthor=False) / "benchmarks"
    if name == "minilm":
        calibration = texts.calibration(minilm.tokenizer(), minilm.INPUTS)
        return minilm.export(cache), {"calibration": calibration, "workload": ["1x128", "8x128"]}
    return rapidocr.recognition(), {"calibration": rapidocr.line_calibration(), "workload": ["1x3x48x320"]}


def asked(name: str, budget: float) -> dict[str, Any]:
    """One rewrite: what was asked, predicted and measured, and joules beside the bounds [J per call]."""
    model, options = model_of(name)
    with tempfile.TemporaryDirectory() as work:
        result = rewrite(model, budget=budget, out=Path(work) / "out", **options)
        _, report, (table, *_) = read_tables(Path(work) / "out")
    taken = table.point([choice for choices in table.programs.values() for choice in choices])
    under = table.solve(Budget(error=budget))
    limit = table.solve(Budget(error=report["error"]["predicted_limit"]))
    return {
        "model": name,
        "asked": budget,
        "predicted": taken.error,
        "predicted_limit": report["error"]["predicted_limit"],
        "measured": result.report["error"]["measured"],
        "held_out": result.report["error"]["held_out"],
        "joules": taken.joules,
        "bound_at_budget": under.joules * (1 - under.gap),
        "bound_at_limit": limit.joules * (1 - limit.gap),
        "above_bound_at_budget": taken.joules / (under.joules * (1 - under.gap)) - 1,
        "above_bound_at_limit": taken.joules / (limit.joules * (1 - limit.gap)) - 1,
        "decided_again": len(report["rolled_back"]),
    }


def nothing_pays() -> dict[str, Any]:
    """silero: what was looked at and why it was left."""
    path = silero.path()
    with onnx_runner(path) as run:
        _, inputs = silero.stream(run, silero.sound(6.0))
    result = rewrite(path, calibration=inputs[::8])
    return {
        "changed": any(choice.action != "leave" for choice in result.plan.choices),
        "before": result.before,
        "after": result.after,
        "seconds": result.report["seconds"],
        "rolled_back": result.report["rolled_back"],
        "choices": [
            {
                "site": choice.site,
                "action": choice.action,
                "reason": choice.reason,
                "options": [{"action": o.action, "joules": o.joules, "reason": o.reason} for o in choice.options],
            }
            for choice in result.plan.choices
        ],
        "misses": [{"op": miss.op, "reason": miss.reason} for miss in result.plan.misses],
    }


def main() -> None:
    """Prints both and writes benchmarks/results/error_budget.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.02, 0.01, 0.005, 0.002, 0.0005])
    parser.add_argument("--models", nargs="+", default=["minilm", "recognition"])
    chosen = parser.parse_args()
    rows = []
    for name in chosen.models:
        for budget in chosen.budgets:
            rows.append(asked(name, budget))
            print(json.dumps(rows[-1]), flush=True)
    table = RichTable(title="error budgets: relative squared error on held-out data; joules modelled")
    for heading in ("model", "asked", "measured", "predicted", "joules", "above the bound there", "above that at the budget"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for row in rows:
        shares = (f"{100 * row[key]:.2f} %" for key in ("above_bound_at_limit", "above_bound_at_budget"))
        cells = (f"{row['asked']:g}", f"{row['measured']:.5f}", f"{row['predicted']:.5f}", f"{row['joules']:.4f}", *shares)
        table.add_row(row["model"], *cells)
    Console(width=140).print(table)
    left = nothing_pays()
    print(f"silero: {'changed' if left['changed'] else 'left alone'}, {len(left['choices'])} sites looked at")
    for choice in left["choices"]:
        print(f"  {choice['site']}: {choice['reason']}")
    result = {
        "benchmark": "error_budget",
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "must": f"never over; joules within {MUST:.0%} of the solver's bound",
        "never_over": all(row["measured"] <= row["asked"] for row in rows),
        "met": all(row["measured"] <= row["asked"] and row["above_bound_at_limit"] <= MUST for row in rows),
        "budgets": rows,
        "silero": left,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "error_budget.json").write_text(json.dumps(result, indent=1, default=str) + "\n")
    print("written to benchmarks/results/error_budget.json")


if __name__ == "__main__":
    main()
