"""`szilard validate-model`: how far a profile's predictions are from measurements, beside the baselines that they must beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from . import command_line_options as options
from .command_line_output import columns, deliver, only_results_on_stdout
from .quantity import number, percent

_SCOPES = {"model": "whole models", "class": "classes of ops", "op": "single ops"}


def validate_model(
    measurements: Annotated[
        Path,
        typer.Argument(metavar="MEASUREMENTS", show_default=False, help="measurements.csv, as `szilard measure` writes it."),
    ],
    device: Annotated[str, typer.Option("--device", show_default=False, help="The profile to judge: a name or a JSON file.")],
    held_out: Annotated[
        list[str] | None,
        typer.Option(
            "--held-out", metavar="FAMILY", help="A family to judge on; repeat it. Default: all the profile has not seen."
        ),
    ] = None,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Errors of predicted joules and seconds on families that the profile was not fitted on, and those of four baselines."""
    with only_results_on_stdout():
        from .validate_model import validate_model as run

        result = run(measurements, device, held_out or ())
    deliver(result, validation_text(result), as_json)


def validation_text(result: Mapping[str, Any]) -> str:
    """The split, one table for each quantity, scope and label, and the notes."""
    split, record = result["split"], result["calibration"]
    held_out = ", ".join(_family(*each) for each in split["configs"].items())
    lines = [
        f"{result['device']} judged by {result['measurements']}",
        f"held out: {held_out}; {'profile and ' if record else ''}baselines fitted on: "
        f"{', '.join(split['fit']) or 'nothing'}; split {split['hash']}{_promise(split, record)}",
    ]
    for name, fit in record.get("fits", {}).items():
        kept = f", left at the prior: {', '.join(fit['at_prior'])}" if fit["at_prior"] else ""
        lines.append(f"fit of {name}: {fit['rows']} rows, {_condition(fit)}median error {percent(fit['residual'])}{kept}")
    if result["coefficients"]:
        used = (f"{len(keys)} {provenance} ({', '.join(keys)})" for provenance, keys in result["coefficients"].items())
        lines.append(f"coefficients that predicted joules: {'; '.join(used)}")
    for table in result["tables"]:
        lines += ["", *_table_lines(table)]
    return "\n".join([*lines, "", *(f"note: {note}" for note in result["notes"])])


def _family(name: str, configs: Sequence[str]) -> str:
    """ "bert (minilm fp32 1x16 and 11 more)": which measurements count as that family."""
    more = f" and {len(configs) - 1} more" if len(configs) > 1 else ""
    return f"{name} ({configs[0]}{more})"


def _condition(fit: Mapping[str, Any]) -> str:
    """ "" where nothing was solved for jointly."""
    return "" if fit["condition"] is None else f"condition {number(fit['condition'])}, "


def _promise(split: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    if split["promised"] is None:
        return ""
    if not split["promised"]:
        return f", not promised before the fit: {', '.join(split['unpromised'])}"
    if split["hash"] == record["split_hash"]:
        return ", the hash printed before the fit"
    return f", part of split {record['split_hash']} that was printed before the fit"


def _table_lines(table: Mapping[str, Any]) -> list[str]:
    count = f"{table['configs']} config{'s' if table['configs'] != 1 else ''}"
    head = f"{table['quantity']} of {_SCOPES[table['scope']]}, modelled against {table['label']}: {count}"
    if table["label"] == "unavailable":
        return [f"{table['quantity']} of {_SCOPES[table['scope']]}, unavailable: {count}; {table['reason']}"]
    noise = "not known (no repeats)" if table["noise"] is None else percent(table["noise"])
    head += f"; median half-width of an interval {percent(table['half_width'])}, noise floor {noise}"
    rows = [("prediction", "configs", "MAPE", "median", "P90", "worst", "bias", "within 5 %", "sign right", "tau", "beaten")]
    for judged in table["judged"]:
        errors, signs = judged["errors"], judged["signs"]
        beaten = {True: "yes", False: "NO", None: ""}[judged["beaten"]]
        rows.append(
            (
                judged["method"],
                str(errors["count"]),
                *(percent(errors[name]) for name in ("mape", "median", "p90", "worst")),
                f"{100 * errors['bias']:+.1f} %",
                f"{100 * errors['close']:.0f} %",
                f"{signs['right']} of {signs['judged']}",
                "" if signs["tau"] is None else f"{signs['tau']:+.2f}",
                beaten,
            )
        )
    lines = [head, columns(rows, right=range(1, 10))] if table["judged"] else [head]
    first = table["judged"][0] if table["judged"] else None
    if first:
        signs = first["signs"]
        lines.append(
            f"rewrites: {signs['judged']} changed the {table['quantity']} beyond their uncertainty, {signs['worse']} of them upwards; "
            f"{signs['ties']} did not; worst of {first['method']}: {first['errors']['worst_config']}"
        )
    return lines + ([f"missing: {table['reason']}"] if table["reason"] else [])
