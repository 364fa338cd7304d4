"""The gate of a rewrite: outputs after every pass, and at the end the error or the metric on held-out data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..cost_model.plan import Budget, Choice
from ..cost_model.program import Program
from .backend import EXACT_ACTIONS, Arrays, Backend, Runner
from .calibration_data import CalibrationData, relative_error

# Relative squared error up to which a rewrite counts as exact, by the narrowest float in the model: sums in another order.
ROUNDING = {"float64": 1e-20, "float32": 1e-9, "float16": 1e-4, "bfloat16": 1e-3}
# Held-out samples that every pass is checked on. One alone was too few: on a photograph of which EfficientNet makes little, an integer
# format of all its convolutions had more than ten times its mean error.
SAMPLES = 4


def rounding_of(dtypes: Collection[str]) -> float:
    """The relative squared error that rounding in the narrowest of `dtypes` may cause, 0 without a float."""
    return max((limit for dtype, limit in ROUNDING.items() if dtype in dtypes), default=0.0)


@dataclass(eq=False)
class Gate:
    """Compares a graph with the original program: `sample_error` on the sample inputs, `held_out` on held-back calibration data."""

    program: Program
    backend: Backend
    budget: Budget
    calibration: CalibrationData | None
    metric: Callable[[Runner], float] | None

    @cached_property
    def _held_out_samples(self) -> Sequence[Arrays]:
        return self.calibration.held_out if self.calibration else (self.program.sample,)

    @cached_property
    def _references(self) -> tuple[list[dict], list[dict], float | None]:
        with self.backend.runner(self.program.graph) as run:
            metric = self.metric(run) if self.metric else None
            outputs = [run(sample) for sample in self._held_out_samples]
            return outputs[:SAMPLES], outputs, metric

    @cached_property
    def rounding(self) -> float:
        """The relative squared error that dtype rounding alone may cause, by the narrowest float of the outputs and the weights."""
        found = {str(array.dtype) for outputs in self._references[0] for array in outputs.values()}
        return rounding_of(found | self.backend.float_dtypes(self.program.graph))

    def tolerance(self, predicted: float) -> float:
        """How far one inexact pass may move the outputs on the sample: ten times the budget or the error `predicted` for its choices,
        whichever is more, so that it names a pass that broke the model. Small excesses are for the final check, which tightens the plan
        instead of undoing it. No limit where a metric is the budget."""
        return float("inf") if self.metric is not None else 10 * max(self.budget.error, predicted)

    def sample_error(self, graph: Any, padding: bool = False) -> float:
        """Relative squared error of the outputs on the first held-out samples (the sample inputs where there is no calibration); with
        `padding` of what they give there too."""
        samples, reference = self._held_out_samples[:SAMPLES], self._references[0]
        with self.backend.runner(graph) as run:
            return relative_error([run(sample) for sample in samples], reference, None if padding else samples)

    @property
    def metric_before(self) -> float | None:
        """The metric of the original, None where none was asked for."""
        return self._references[2]

    def held_out(self, graph: Any) -> tuple[float, tuple[float, float] | None]:
        """(relative squared error, (metric before, metric after) or None) on held-out data."""
        with self.backend.runner(graph) as run:
            outputs = [run(sample) for sample in self._held_out_samples]
            error = relative_error(outputs, self._references[1], self._held_out_samples)
            metric = self.metric(run) if self.metric else None
        before = self._references[2]
        return error, None if metric is None or before is None else (before, metric)

    def excess(self, error: float, metric: tuple[float, float] | None, choices: Sequence[Choice]) -> float:
        """What a rewrite by `choices` spent as a multiple of the budget; at most 1 passes. A joule budget limits no error."""
        if self.budget.joules is not None:
            return 0.0
        spent = metric[0] - metric[1] if metric else error
        exact = all(choice.action in EXACT_ACTIONS for choice in choices)
        # Rounding is no part of a budget, and where outputs are equal to rounding a metric that moved did so by rounding too.
        if spent <= 0 or (error <= self.rounding and (exact or metric is not None)):
            return 0.0
        return spent / self.budget.error if self.budget.error > 0 else float("inf")
