"""Metrics a user names: a function from a runner (dict of arrays -> dict of arrays) to a number, larger is better."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..cost_model.errors import InputError, SzilardError
from .fault_text import fault_text


def metric_function(metric: Any) -> Callable[[Any], float] | None:
    """The function behind `metric`: None, a callable, or "package.module:function" importable from here.

    InputError says what is missing; the function given back raises one where the metric raises or returns no finite number."""
    if metric is None:
        return None
    if callable(metric):
        return _checked(metric, f"The metric {getattr(metric, '__name__', type(metric).__name__)}")
    module_name, _, name = str(metric).partition(":")
    if not name or not module_name:
        raise InputError(f"--metric {metric!r} names no function; write package.module:function.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as fault:
        raise InputError(f"--metric {metric}: {fault}; run from the folder that holds the module.") from fault
    except Exception as fault:  # the user's module runs on import
        raise InputError(f"--metric {metric}: importing {module_name} raised {fault_text(fault)}.") from fault
    if not callable(found):
        raise InputError(f"--metric {metric} is not a function.")
    return _checked(found, f"--metric {metric}")


def _checked(metric: Callable[[Any], Any], subject: str) -> Callable[[Any], float]:
    def checked(run: Any) -> float:
        try:
            given = metric(run)
        except SzilardError:
            raise
        except Exception as fault:  # the user's function
            raise InputError(f"{subject} raised {fault_text(fault)}.") from fault
        try:
            value = float(given)
        except (TypeError, ValueError, RuntimeError) as fault:
            raise InputError(
                f"{subject} returned a {type(given).__name__}; it must return a number, larger is better."
            ) from fault
        if not math.isfinite(value):
            shown = "NaN" if math.isnan(value) else value
            raise InputError(f"{subject} returned {shown}; it must return a finite number, larger is better.")
        return value

    return checked
