"""Energy of one CUDA card in three stages, each resumable: is its counter any good, what do its coefficients cost, and do they predict
whole models that were never fitted on. With --simulate the same on a card that does not exist: its joules are modelled. Each stage is done
in eight minutes; how long it took is kept beside the results.

python -P -m szilard.benchmarks.gpu_energy [--stage sensors|calibrate|validate] [--card cuda:0 | --simulate SEED] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from ..cost_model.baselines import NAMES
from ..cost_model.device import Device, load_device
from ..cost_model.energy_session import Effort
from ..cost_model.errors import InputError
from ..cost_model.measurement import Measurement, read_measurements, write_measurements
from ..cost_model.validate import ON_MEASURED, ON_PREDICTED
from ..cost_model.whole_file import write_whole
from ..rewriter.calibrate_cuda import calibrate_on, profile_of
from ..rewriter.command_line_validate import validation_text
from ..rewriter.energy_case import EnergyCase, part_stamp
from ..rewriter.json_text import json_text
from ..rewriter.measure_with_bar import measure_with_bar
from ..rewriter.part_file import PartFile
from ..rewriter.validate_model import validate_model
from .gpu_sensors import IdleBench, sensors

RESULTS = Path(__file__).parent / "results"
STAGES = ("sensors", "calibrate", "validate")
EFFORT = Effort(half_width=0.01, least_seconds=0.4, most_seconds=8.0, warm_seconds=0.5, settle_seconds=0.5)
REPEATED = 7
ENERGIES = ("flop", "byte", "launch", "static")
MOST_MAPE, GOAL_MAPE = 0.08, 0.05
MOST_HALF_WIDTH, MOST_COEFFICIENT_HALF_WIDTH = 0.02, 0.1
MOST_STAGE_SECONDS = 480.0


class Files:
    """Where the stages keep what they find: `folder`, under names that say which card, or that none was there."""

    def __init__(self, folder: Path, device: str) -> None:
        slug = "simulated" if device.startswith("simulated") else re.sub(r"\W+", "-", device.lower()).strip("-")
        self.sensors = folder / f"gpu-energy-{slug}-sensors.json"
        self.profile = folder / f"gpu-energy-{slug}-profile.json"
        self.models = folder / f"gpu-energy-{slug}-models.csv"
        self.verdict = folder / f"gpu-energy-{slug}-verdict.json"
        self.stages = folder / f"gpu-energy-{slug}-stages.json"


def calibrate_stage(bench: IdleBench, prior: Device, files: Files, console: Console) -> dict[str, Any]:
    """The profile and its rows."""
    result = calibrate_on(bench, prior, files.profile, progress=console.print)
    console.print(f"{result['rows']} rows; joules {result['joules']}; condition {result['condition']}", soft_wrap=True)
    for config, reason in result["refused"].items():
        console.print(f"not done by this card: {config}: {reason}", soft_wrap=True)
    return result


def validate_stage(
    bench: IdleBench, cases: Sequence[EnergyCase], files: Files, console: Console, effort: Effort = EFFORT
) -> dict[str, Any]:
    """Rows of the held-out cases, the verdict on the profile, and whether it keeps what was asked of it."""
    if not files.profile.is_file():
        raise InputError(f"There is no profile {files.profile} to validate; run --stage calibrate first.")
    profile = load_device(files.profile)
    part = PartFile(files.models, part_stamp(bench, profile, cases))
    rows, refused = measure_with_bar(cases, bench, profile, part, effort)
    write_measurements(files.models, rows)
    part.remove()
    verdict = validate_model(files.models, files.profile)
    console.print(validation_text(verdict), soft_wrap=True, highlight=False)
    for config, reason in refused.items():
        console.print(f"not done by this card: {config}: {reason}", soft_wrap=True)
    kept = promises(verdict, rows, read_measurements(files.profile.with_suffix(".measurements.csv")), profile)
    for name, one in kept.items():
        console.print(f"{'kept  ' if one['kept'] else 'BROKEN'} {name}: {one['value']} ({one['label']})", highlight=False)
    verdict["measurements"] = files.models.name
    return {"device": bench.device, "label": bench.meter.status, "refused": refused, "promises": kept, "verdict": verdict}


def promises(
    verdict: dict[str, Any], rows: Sequence[Measurement], calibrated: Sequence[Measurement], profile: Device
) -> dict[str, dict[str, Any]]:
    """What must hold of whole models, each with its value, whether it does, and how the joules were had; {} where none were had."""
    tables = [t for t in verdict["tables"] if (t["quantity"], t["scope"]) == ("joules", "model") and t["judged"]]
    fitted = profile.calibration["fits"].get("joules")
    if not tables or not fitted:
        return {}
    table = tables[0]
    judged = {found["method"]: found for found in table["judged"]}
    mapes = {how: judged[how]["errors"]["mape"] for how in (ON_MEASURED, ON_PREDICTED) if how in judged}
    widths = [
        (row.joules_high - row.joules_low) / 2 / row.joules
        for row in (*rows, *calibrated)
        if row.joules and row.joules_high is not None and row.joules_low is not None
    ]
    halves = [
        (found.high - found.low) / 2 / found.value
        for key, found in profile.coefficients.items()
        if key.partition(".")[0] in ENERGIES and found.provenance in ("measured", "modelled") and found.value
    ]
    beaten = [name for name in NAMES if name in judged and judged[name]["beaten"]]
    width, coefficient = statistics.median(widths), statistics.median(halves)

    def one(value: str, kept: bool) -> dict[str, Any]:
        return {"value": value, "kept": kept, "label": table["label"]}

    return {
        **{
            f"{name} at most {most:.0%}: {how}": one(f"{mape:.2%}", mape <= most)
            for name, most in (("mean error of joules", MOST_MAPE), ("goal: mean error", GOAL_MAPE))
            for how, mape in mapes.items()
        },
        "all four baselines beaten": one(", ".join(beaten), len(beaten) == len(NAMES)),
        f"median half-width of a measurement at most {MOST_HALF_WIDTH:.0%}": one(f"{width:.2%}", width <= MOST_HALF_WIDTH),
        f"median half-width of a coefficient at most {MOST_COEFFICIENT_HALF_WIDTH:.0%}": one(
            f"{coefficient:.2%}", coefficient <= MOST_COEFFICIENT_HALF_WIDTH
        ),
    }


def run(
    stages: Sequence[str], bench: IdleBench, prior: Device, folder: Path, cases: Sequence[EnergyCase], console: Console
) -> dict[str, Any]:
    """The stages, one after the other; what each found, by its name."""
    folder.mkdir(parents=True, exist_ok=True)
    files, found = Files(folder, bench.device), {}
    for stage in stages:
        wall, clock = time.perf_counter(), bench.meter.clock
        began = clock.now()
        console.rule(f"{stage}: {bench.device}")
        console.print(bench.meter.reason, soft_wrap=True)
        if stage == "sensors":
            found[stage] = sensors(bench, prior, files.sensors, lambda part: console.print(f"  {part}"))
            console.print_json(json_text(found[stage]["parts"], indent=None), indent=1)
        elif stage == "calibrate":
            found[stage] = calibrate_stage(bench, prior, files, console)
        else:
            found[stage] = validate_stage(bench, cases, files, console)
            files.verdict.write_text(json_text(found[stage]), encoding="utf-8")
        spent = clock.now() - began
        simulated = (
            f" of the simulated card, {time.perf_counter() - wall:.0f} s of computing"
            if bench.meter.status == "modelled"
            else ""
        )
        console.print(f"{'kept  ' if keep_seconds(files, bench, stage, spent) else 'BROKEN'} {stage}: {spent:.0f} s{simulated}")
    return found


def keep_seconds(files: Files, bench: IdleBench, stage: str, seconds: float) -> bool:
    """Remember the longest that one run of a stage took on this card, by its own clock [s]: a run that finds its work done says nothing.
    Whether that keeps to `MOST_STAGE_SECONDS`."""
    stamp = {"device": bench.device, "label": "modelled" if bench.meter.status == "modelled" else "measured"}
    try:
        kept = json.loads(files.stages.read_text(encoding="utf-8"))
        stages = kept["stages"] if {key: kept[key] for key in stamp} == stamp else {}
    except (OSError, ValueError, KeyError):
        stages = {}
    longest = max(seconds, stages.get(stage, {}).get("seconds", 0.0))
    stages[stage] = {"seconds": longest, "kept": longest <= MOST_STAGE_SECONDS}
    write_whole(files.stages, json_text({**stamp, "most_seconds": MOST_STAGE_SECONDS, "stages": stages}))
    return longest <= MOST_STAGE_SECONDS


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the stages that were asked for, all three by default, and prints where the results are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=STAGES, action="append", help="one stage; repeat it for more (default: all)")
    parser.add_argument("--card", default="cuda:0")
    parser.add_argument("--simulate", type=int, metavar="SEED", help="a simulated card instead of a real one")
    parser.add_argument(
        "--target", default=None, help="the profile to begin with (default: the card's; h200 for a simulated one)"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the results")
    chosen = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    console = Console(width=150)
    try:
        bench, prior = _bench(chosen)
        from .gpu_kernels import kernel_cases
        from .gpu_models import model_cases

        cases = [*kernel_cases(), *model_cases()]
        run(chosen.stage or STAGES, bench, prior, chosen.out, [*cases, *repeats(cases)], console)
    except InputError as fault:
        raise SystemExit(f"gpu_energy: {fault}") from fault
    console.print(f"results: {chosen.out}")


def repeats(cases: Sequence[EnergyCase]) -> list[EnergyCase]:
    """Every `REPEATED`th case once more, at the end: what two measurements of one thing differ by."""
    return [replace(case, again=True) for case in cases[::REPEATED]]


def _bench(chosen: argparse.Namespace) -> tuple[IdleBench, Device]:
    if chosen.simulate is not None:
        from .gpu_simulated import SimulatedBench

        prior = load_device(chosen.target or "h200")
        return SimulatedBench(prior, chosen.simulate), prior
    from ..rewriter.cuda_bench import CudaBench

    bench = CudaBench(chosen.card)
    return bench, load_device(chosen.target) if chosen.target else profile_of(bench.device)


if __name__ == "__main__":
    main()
