"""Does an evaluation give the same score for the same model?

A function or a command of the user's own may draw samples anew, or run on a device that is never twice the same. Where trials look as
if it did, the float model is scored once more: another score than before is noise, and differences of that size say nothing.

They look so where a quantized model scores better than the float one, where a trial is met and one that is less precise in no layer
is not, or where no two models have the same score, as those of a fixed set of samples often do. All of it happens by chance on sound
evaluations too; then the second score is equal, and nothing is said.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from calibrant.data.digests import text_digest
from calibrant.errors import CalibrantError
from calibrant.tuner.costs import BITS
from calibrant.tuner.evaluations import Evaluations
from calibrant.tuner.markdown import shown
from calibrant.tuning.menu import Assignment
from calibrant.tuning.questions import Trial

__all__ = ["look_for_noise"]


def look_for_noise(
    evaluations: Evaluations, original: ir.Model, trials: Sequence[Trial], key: str
) -> None:
    """Score the float model once more where trials look like noise, and note what that says.

    Args:
        evaluations: What evaluates.
        original: The float model.
        trials: What was tried.
        key: Digest of all that scores depend on.
    """
    before = evaluations.float_score
    if not evaluations.evaluator.own or not _look_like_noise(trials, before):
        return
    key = text_digest(key, "float", "again")
    known = evaluations.journal.get(key)
    start = time.perf_counter()
    if known is None:
        try:
            found = evaluations.evaluator.score(original)
        except CalibrantError as e:
            evaluations.notes.append(f"The float model was scored once more, which failed: {e}")
            return
        known = {"score": found.several or found.value}
        evaluations.journal.put(
            key, "full", "the float model, once more", known, time.perf_counter() - start
        )
    evaluations.counts.full += 1
    again: float | Mapping[str, float] = known["score"]
    if again != before:
        evaluations.notes.append(
            f"The evaluation is noisy: the float model scored {shown(before)}, and {shown(again)} when it was scored once more. "
            "Differences of that size say nothing, not even whether the requirement is met. Score the same samples each time, with "
            "a fixed seed, or more of them."
        )


def _look_like_noise(trials: Sequence[Trial], before: float | Mapping[str, float]) -> bool:
    tried = [t for t in trials if not t.reached.free and math.isfinite(t.reached.loss)]
    if not tried:
        return False
    if any(t.reached.loss < 0 for t in tried):
        return True
    scores = [repr(before), *(repr(t.reached.scores or t.reached.score) for t in tried)]
    if len(set(scores)) == len(scores):
        return True
    return any(
        a.reached.met
        and not b.reached.met
        and (a.improved, a.trained) == (b.improved, b.trained)
        and _as_precise(b.assignment, a.assignment)
        for a in tried
        for b in tried
    )


def _as_precise(one: Assignment, other: Assignment) -> bool:
    return all(BITS[a] >= BITS[b] for a, b in zip(one, other, strict=True))
