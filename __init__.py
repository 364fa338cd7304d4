"""Szilard rewrites a trained model so that it does the same work for fewer joules, and says how many, where, and why."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cost_model.errors import BudgetError, InputError, SzilardError
    from .cost_model.plan import Budget, Phase, Plan, Workload
    from .rewriter.compare import compare
    from .rewriter.estimate import estimate
    from .rewriter.measure import measure
    from .rewriter.rewrite import Result, rewrite

__version__ = "0.1.0"

# Loaded when first used: the command line answers --help without importing torch.
_WHERE = {
    "rewrite": ".rewriter.rewrite",
    "Result": ".rewriter.rewrite",
    "estimate": ".rewriter.estimate",
    "measure": ".rewriter.measure",
    "compare": ".rewriter.compare",
    "Budget": ".cost_model.plan",
    "Phase": ".cost_model.plan",
    "Plan": ".cost_model.plan",
    "Workload": ".cost_model.plan",
    "SzilardError": ".cost_model.errors",
    "InputError": ".cost_model.errors",
    "BudgetError": ".cost_model.errors",
}

__all__ = [
    "Budget",
    "BudgetError",
    "InputError",
    "Phase",
    "Plan",
    "Result",
    "SzilardError",
    "Workload",
    "compare",
    "estimate",
    "measure",
    "rewrite",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'szilard' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name], __name__), name)
