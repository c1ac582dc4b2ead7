"""The verdict of a run: models scored on evaluation data, the float one before anything that takes long is begun."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from calibrant.analysis.evaluate import evaluate
from calibrant.analysis.tasks.registry import task_metric
from calibrant.data.imports import is_function_name
from calibrant.qat.judge import Evaluate

__all__ = ["Verdict"]


@dataclass(slots=True)
class Verdict:
    """Scores models on evaluation data, more being better; the float model once.

    Args:
        score: Scores a model.
        floating: What it said of the float model.
        original: The float model, as the run has it.
    """

    score: Evaluate
    floating: float = math.nan
    original: ir.Model | None = None

    @classmethod
    def of(
        cls,
        data: Any,
        metric: str | None,
        preprocess: str | Path | None,
        provider: str,
        threads: int | None,
    ) -> Verdict | None:
        """Return it; None where there is no evaluation data."""
        if data is None or metric is None:
            return None
        sign = 1.0
        if not is_function_name(metric) and not task_metric(metric).higher_is_better:
            sign = -1.0

        def score(model: ir.Model) -> float:
            found = evaluate(
                model, data, metric, preprocess=preprocess, provider=provider, threads=threads
            )
            return sign * found.value

        return cls(score)

    def begin(self, model: ir.Model) -> None:
        """Score the float model: data that does not fit is told now, and not behind the training."""
        self.floating = self.score(model)

    def of_run(self, original: ir.Model) -> Evaluate:
        """Return what scores the models of a run.

        Args:
            original: The float model, which was scored.
        """
        self.original = original
        return self

    def __call__(self, model: ir.Model) -> float:
        """Score a model."""
        return self.floating if model is self.original else self.score(model)
