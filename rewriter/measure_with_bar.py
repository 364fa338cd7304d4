"""`measure_with_bar`: cases measured one session after the other, with a progress bar on stderr."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.progress import Progress

from ..cost_model.device import Device
from ..cost_model.energy_session import Effort
from ..cost_model.measurement import Measurement
from .energy_case import Bench, EnergyCase, measure_cases
from .part_file import PartFile


def measure_with_bar(
    cases: Sequence[EnergyCase], bench: Bench, profile: Device, part: PartFile, effort: Effort
) -> tuple[tuple[Measurement, ...], dict[str, str]]:
    """`measure_cases`, shown while it runs. Raises what that raises."""
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("measuring", total=len(cases))
        found = measure_cases(
            cases, bench, profile, part, effort, lambda done, config: bar.update(task, completed=done, description=config)
        )
        bar.update(task, completed=len(cases), description="measured")
        return found
