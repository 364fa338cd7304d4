"""Metrics a user names: a function from a runner (dict of arrays -> dict of arrays) to a number, larger is better."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..cost_model.errors import InputError


def metric_function(metric: Any) -> Callable[[Any], float] | None:
    """The function behind `metric`: None, a callable, or "package.module:function" importable from here.

    InputError says what is missing, and that a metric returned NaN."""
    if metric is None or callable(metric):
        return metric
    module_name, _, name = str(metric).partition(":")
    if not name:
        raise InputError(f"--metric {metric!r} names no function; write package.module:function.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as fault:
        raise InputError(f"--metric {metric}: {fault}; run from the folder that holds the module.") from fault
    if not callable(found):
        raise InputError(f"--metric {metric} is not a function.")

    def checked(run: Any) -> float:
        value = float(found(run))
        if value != value:
            raise InputError(f"--metric {metric} returned NaN; it must return a number, larger is better.")
        return value

    return checked
