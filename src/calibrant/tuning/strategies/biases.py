"""Choose how biases are corrected: not at all, by a walk through the model, or by local errors.

Biases stay as they are unless a correction is clearly better, on samples that it does not come from. Of several that
are clearly better the best is taken: in the deployed model all of them are the same addition. A way is judged on few
samples first, and on more as long as they do not say that it gains enough, or loses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from calibrant.analysis.better import Comparison, clearly_better
from calibrant.analysis.score import Score
from calibrant.tuning.driver import Strategy
from calibrant.tuning.strategies.ranges import FIRST_SAMPLES, Verdict

__all__ = ["biases"]


def biases(
    ways: Sequence[str],
    said: Callable[[str, Comparison], None] = lambda *_: None,
    *,
    enough_db: float = math.inf,
) -> Strategy[tuple[str, int], Verdict, str]:
    """Return the way that is taken. What is asked is a way, and on how many samples it is to be judged at the least.

    Args:
        ways: Names of ways to correct, in the order in which they are tried.
        said: Told of each comparison: the way that was tried, and what came of it.
        enough_db: Where a way gains so much beyond the noise, those behind it are not tried [dB].
    """
    best, reached = "off", 0.0
    for way in ways:
        samples = FIRST_SAMPLES
        while True:
            theirs = yield way, samples
            if theirs.scores is None:
                break
            ours = yield "off", samples
            assert ours.scores is not None
            found = clearly_better(theirs.scores, ours.scores)
            enough = found.better and found.gain_db - found.noise_db >= enough_db
            loses = found.can_say and found.gain_db + found.noise_db <= 0
            if not (loses or (enough and best == "off") or (theirs.all and ours.all)):
                samples *= 2
                continue
            said(way, found)
            db = Score.of(theirs.scores).db
            if found.better and (best == "off" or db > reached):
                best, reached = way, db
                if enough:
                    return best
            break
    return best
