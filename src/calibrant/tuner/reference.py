"""What the float model scores, and how much less a quantized one may."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from calibrant.data.digests import text_digest
from calibrant.errors import ConfigValueError
from calibrant.graph.load import ModelLike
from calibrant.tuner.evaluations import Evaluations
from calibrant.tuner.evaluator import Evaluator
from calibrant.tuner.journal import Journal
from calibrant.tuner.requirement import Requirement

__all__ = ["evaluations_of", "float_scores", "name_of"]


def name_of(model: ModelLike) -> str:
    """Return what a model is called in what is kept of it."""
    return Path(model).name if isinstance(model, str | Path) else "(in memory)"


def float_scores(
    evaluator: Evaluator, original: ir.Model, journal: Journal, context: str, scoring: str
) -> float | dict[str, float]:
    """Return what the float model scores: one number, or several by name."""
    key = text_digest(context, scoring, "float")
    found = journal.get(key)
    start = time.perf_counter()
    if evaluator.paired is not None:
        values = np.array(found["values"]) if found is not None else None
        reference = evaluator.paired.open(values)
        answer = {"score": float(reference.mean()), "values": reference.tolist()}
    elif found is not None:
        answer = found
    else:
        scored = evaluator.score(original)
        answer = {"score": scored.value, "several": scored.several}
    several: dict[str, float] | None = answer.get("several")
    for name, value in (several or {evaluator.name: float(answer["score"])}).items():
        if math.isnan(value):
            raise ConfigValueError(
                f"The float model's {name} is NaN, so no other model can be compared with it."
            )
    if found is None:
        journal.put(key, "full", "the float model", answer, time.perf_counter() - start)
    return several if several is not None else float(answer["score"])


def evaluations_of(
    evaluator: Evaluator,
    journal: Journal,
    required: Requirement,
    reference: float | Mapping[str, float],
) -> Evaluations:
    """Return what evaluates, with how much each score may lose."""
    better = evaluator.higher_is_better
    if not isinstance(reference, Mapping):
        allowed = required.allowed(reference, higher_is_better=better)
        return Evaluations(evaluator, journal, reference, allowed)
    several = {
        n: (v, required.of_score(n).allowed(v, higher_is_better=better))
        for n, v in reference.items()
    }
    required.check_scores(reference)
    return Evaluations(evaluator, journal, 0.0, 1.0, several)
