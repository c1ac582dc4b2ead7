"""What the float model scores, and how much less a quantized one may.

Where more is required than the float model scores, no search can bring it: that is said at once, before trials are spent. It is no
error, since chance can lift a quantized model above the float one, and who waits for a model gets the best there is: the
cheapest and the most precise assignment are tried, and exit code 8 says that the requirement is not met.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from calibrant.data.digests import text_digest
from calibrant.errors import CalibrantError, ConfigValueError
from calibrant.graph.load import ModelLike
from calibrant.tuner.each import Each
from calibrant.tuner.evaluations import Evaluations
from calibrant.tuner.evaluator import Evaluator
from calibrant.tuner.journal import Journal
from calibrant.tuner.markdown import shown
from calibrant.tuner.requirement import Requirement

__all__ = ["Reference", "evaluations_of", "float_scores", "name_of", "nothing_scored"]

logger = logging.getLogger(__name__)


def name_of(model: ModelLike) -> str:
    """Return what a model is called in what is kept of it."""
    return Path(model).name if isinstance(model, str | Path) else "(in memory)"


@dataclass(frozen=True, slots=True)
class Reference:
    """What the float model scores.

    Args:
        score: The score, or several by name.
        each: By sample, where an evaluation of the user's own gives that.
    """

    score: float | Mapping[str, float]
    each: tuple[float, ...] | None = None


def float_scores(
    evaluator: Evaluator, original: ir.Model, journal: Journal, context: str, scoring: str
) -> Reference:
    """Return what the float model scores."""
    key = text_digest(context, scoring, "float")
    found = journal.get(key)
    start = time.perf_counter()
    if evaluator.paired is not None:
        values, margins = (
            np.array(found[n]) if found is not None and found.get(n) is not None else None
            for n in ("values", "margins")
        )
        reference = evaluator.paired.open(values, margins)
        answer = {"score": float(reference.mean()), "values": reference.tolist()}
        far = evaluator.paired.margins
        answer["margins"] = far.tolist() if far is not None else None
    elif found is not None:
        answer = found
    else:
        scored = evaluator.score(original)
        answer = {"score": scored.value, "several": scored.several, "each": scored.each}
    several: dict[str, float] | None = answer.get("several")
    for name, value in (several or {evaluator.name: float(answer["score"])}).items():
        if math.isnan(value):
            raise ConfigValueError(
                f"The float model's {name} is NaN, so no other model can be compared with it."
            )
    if found is None:
        journal.put(key, "full", "the float model", answer, time.perf_counter() - start)
    each = answer.get("each")
    score = several if several is not None else float(answer["score"])
    return Reference(score, tuple(each) if each is not None else None)


def evaluations_of(
    evaluator: Evaluator,
    journal: Journal,
    required: Requirement,
    known: Reference,
) -> Evaluations:
    """Return what evaluates, with how much each score may lose; say at once where the float model misses what is required."""
    better, reference = evaluator.higher_is_better, known.score
    if not isinstance(reference, Mapping):
        allowed = required.allowed(reference, higher_is_better=better)
        each = Each(known.each, better) if known.each is not None else None
        found = Evaluations(evaluator, journal, reference, allowed, each=each)
    else:
        several = {
            n: (v, required.of_score(n).allowed(v, higher_is_better=better))
            for n, v in reference.items()
        }
        required.check_scores(reference)
        found = Evaluations(evaluator, journal, 0.0, 1.0, several)
    if found.above_float:
        text = _above_float(found.above_float, reference, required)
        logger.warning("%s", text)
        found.notes.append(text)
    return found


def nothing_scored(failed: CalibrantError, evaluations: Evaluations) -> CalibrantError:
    """Return the error of a run in which the evaluation failed for every quantized model, with what is known all the same."""
    text = f"{failed} The float model was scored before ({shown(evaluations.float_score)}), and no quantized model could be."
    path = evaluations.journal.path
    kept = (
        f" What is known so far is kept in '{path}': the same command goes on from there."
        if path
        else ""
    )
    return type(failed)(text + kept)


def _above_float(
    names: Sequence[str], reference: float | Mapping[str, float], required: Requirement
) -> str:
    some = {n: reference[n] for n in names} if isinstance(reference, Mapping) else reference
    return (
        f"The float model itself does not meet the requirement: it scores {shown(some)}; required: {required}. Quantizing wins "
        "nothing back but by chance, so few trials are made, and the best of them is kept. Ask for no more than the float model "
        "has (min), or for how much less it may be (max-drop); or look for a better float model first."
    )
