"""`szilard estimate`, `szilard devices` and `szilard doctor`: prices without rewriting, where they come from, and what is installed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from . import command_line_options as options
from .command_line_output import columns, deliver, only_results_on_stdout, progress

_SHOWN_OPS = 12
_PHASES = ("phase", "of the calls", "modelled joules", "seconds", "from", "work", "moved")
devices = typer.Typer(help="The device profiles, and where each number comes from.", rich_markup_mode=None)


def estimate(
    model: options.Model,
    target: options.Target = "cpu",
    task: options.TaskOption = None,
    workload: options.WorkloadFile = None,
    shape: options.Shapes = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse a model with an op that has no price.")] = False,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Joules of every op of MODEL on a device that need not be here, with floors; nothing is rewritten or run."""
    asked = options.workload_of(workload, shape)
    with only_results_on_stdout():
        from .estimate import estimate as run

        result = run(model, target=target, workload=asked, strict=strict, task=options.task_name(task), progress=progress)
    deliver(result, estimate_text(result), as_json)


@devices.callback(invoke_without_command=True)
def list_devices(context: typer.Context, as_json: options.AsJson = False, debug: options.Debug = False) -> None:
    """List the device profiles; `szilard devices show NAME` prints every coefficient of one."""
    if context.invoked_subcommand is not None:
        return
    from ..cost_model.device import device_names, load_device
    from .device_text import devices_text

    found = [load_device(name) for name in device_names()]
    deliver({"devices": [_profile(device) for device in found]}, devices_text(found), as_json)


@devices.command("show")
def show_device(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="A profile's name or a JSON file.")],
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Every coefficient of one device profile, with its interval, provenance and source."""
    from ..cost_model.device import load_device
    from .device_text import device_text

    device = load_device(name)
    deliver(device.to_json(), device_text(device), as_json)


def doctor(as_json: options.AsJson = False, debug: options.Debug = False) -> None:
    """What is installed and what this machine can run, time and meter."""
    with only_results_on_stdout():
        from .doctor import examine

        findings = examine()
    rows = [(finding.state, finding.name, finding.sentence) for finding in findings]
    deliver({"findings": findings, "problems": sum(f.state == "problem" for f in findings)}, columns(rows), as_json)


def estimate_text(result: Mapping[str, Any]) -> str:
    """Totals, joules by kind, and the dearest ops of an estimate."""
    from ..cost_model.provenance import provenance_clause
    from .quantity import quantity
    from .report_view import unpriced_sentence

    total, ops = result["total"], result["ops"]
    least = "at least " if result.get("at_least") else ""
    kinds: dict[str, float] = defaultdict(float)
    counted = Counter(op["kind"] for op in ops)
    for op in ops:
        kinds[op["kind"]] += op["joules"] or 0.0
    joules, seconds = quantity(total.get("joules"), "J"), quantity(total.get("seconds"), "s")
    work = f"{quantity(total.get('flops'), 'flop')}, {quantity(total.get('bytes'), 'B')} moved"
    if "memory_bytes" in total:
        work += f" ({quantity(total['memory_bytes'], 'B')} past the last cache, {quantity(total['cache_bytes'], 'B')} to and from cores)"
    floor = f"{quantity(total.get('landauer_joules'), 'J')} (Landauer), {quantity(total.get('io_bytes'), 'B')} moved"
    label = total.get("label", "modelled")
    lines = [
        f"{result['model']} on {result['target']}: {least}{joules} and {seconds} per call (modelled, seconds from {label})"
    ]
    if result.get("provenance"):
        lines.append(f"joules: modelled; {provenance_clause(result['provenance'])}")
    lines += [f"work (modelled): {least}{work}", f"floors (modelled), which decide nothing: {floor}", ""]
    phases = result.get("phases", ())
    if len(phases) > 1:
        lines += [columns([_PHASES, *map(_phase, phases)], right=(1, 2, 3, 5, 6)), ""]
    rows = [("kind", "ops", "modelled joules", "share")]
    whole = sum(kinds.values()) or 1.0
    for kind, value in sorted(kinds.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN_OPS]:
        rows.append((kind, str(counted[kind]), quantity(value, "J"), f"{100 * value / whole:.1f} %"))
    lines += [columns(rows, right=(1, 2, 3)), ""]
    dearest = [("dearest ops", "kind", "modelled joules", "seconds", "from", "share")]
    for op in sorted(ops, key=lambda op: (-(op["joules"] or 0.0), op["id"]))[:_SHOWN_OPS]:
        share = f"{100 * (op.get('share') or 0.0):.1f} %"
        dearest.append(
            (op["id"], op["kind"], quantity(op["joules"], "J"), quantity(op["seconds"], "s"), op.get("label", label), share)
        )
    lines.append(columns(dearest, right=(2, 3, 5)))
    if result.get("unpriced"):
        lines += ["", unpriced_sentence(result["unpriced"], _SHOWN_OPS)]
    lines += [f"note: {note}" for note in result.get("notes", ())]
    return "\n".join(lines)


def _phase(phase: Mapping[str, Any]) -> tuple[str, ...]:
    """One phase by itself, per call of it, and how often it runs."""
    from .quantity import quantity

    total = phase["total"]
    least = "at least " if phase["at_least"] else ""
    units = (("joules", "J"), ("seconds", "s"), ("flops", "flop"), ("bytes", "B"))
    joules, seconds, work, moved = (least + quantity(total[key], unit) for key, unit in units)
    return phase["name"], f"{100 * phase['weight']:.3g} %", joules, seconds, total["label"], work, moved


def _profile(device: Any) -> dict[str, Any]:
    from ..cost_model.coefficients import provenance_counts

    return {"name": device.name, "kind": device.kind, "notes": device.notes, "provenances": provenance_counts(device)}
