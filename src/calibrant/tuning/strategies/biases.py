"""Choose how biases are corrected: not at all, by local errors, or by a walk through the model.

Biases stay as they are unless a correction is clearly better, on samples that it does not come from. Of several that
are clearly better the best is taken: in the deployed model all of them are the same addition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from calibrant.analysis.score import Comparison, SampleScores, Score, clearly_better
from calibrant.tuning.driver import Strategy

__all__ = ["biases"]


def biases(
    ways: Sequence[str],
    said: Callable[[str, Comparison], None] = lambda *_: None,
    *,
    enough_db: float = math.inf,
) -> Strategy[str, SampleScores | None, str]:
    """Return the way that is taken.

    Args:
        ways: Names of ways to correct, in the order in which they are tried.
        said: Told of each comparison: the way that was tried, and what came of it.
        enough_db: Where a way gains so much beyond the noise, those behind it are not tried [dB].
    """
    plain = yield "off"
    assert plain is not None
    best, reached = "off", 0.0
    for way in ways:
        scores = yield way
        if scores is None:
            continue
        found = clearly_better(scores, plain)
        said(way, found)
        db = Score.of(scores).db
        if found.better and (best == "off" or db > reached):
            best, reached = way, db
            if found.gain_db - found.noise_db >= enough_db:
                break
    return best
