"""Which of the steps that were tried are shown, and in which order.

Shown is what gains. A step for more places is shown where all steps for fewer leave more than a quarter of the error, or less than
20 dB: else the few places are what is wrong. Of two steps for the same places the dearer one has to gain clearly more.
"""

from __future__ import annotations

from collections.abc import Sequence

from calibrant.analysis.score import Score
from calibrant.diagnose.advice.steps import Tried

__all__ = ["DEARER_DB", "ENOUGH_DB", "GOOD_DB", "LEAST_DB", "Kept", "best_first"]

#: Steps as they are shown: what, its score, its gain [dB].
Kept = list[tuple[Tried, Score, float]]

#: A step gains so much at least, and so much more than a cheaper one for the same places [dB].
LEAST_DB, DEARER_DB = 0.1, 1.0

#: Three quarters of the error [dB]: where fewer places make so much, more of them are not looked at …
ENOUGH_DB = 6.0
#: … once the outputs are so good: below, few networks keep their accuracy.
GOOD_DB = 20.0


def best_first(found: Sequence[tuple[Tried, Score]], before: Score) -> Kept:
    """Return the steps that are shown, with what each gains [dB], best first.

    Args:
        found: What was tried, and the score of each.
        before: The score of the recipe as it is.
    """
    gains = [(step, score, score.db - before.db) for step, score in found]
    gains = [g for g in gains if g[2] >= LEAST_DB]
    kept: Kept = []
    for step, score, gain in sorted(gains, key=lambda g: (g[0].units, g[0].price, -g[2])):
        fewer = max((k[2] for k in kept if k[0].units < step.units), default=0.0)
        same = [k for k in kept if (k[0].whole, k[0].layers) == (step.whole, step.layers)]
        cheaper = max((k[2] for k in same if k[0].price < step.price), default=-DEARER_DB)
        alike = max((k[2] for k in same if k[0].move == step.move), default=0.0)
        done = fewer >= ENOUGH_DB and before.db + fewer >= GOOD_DB
        if done or (fewer > 0 and gain < fewer + DEARER_DB):
            continue
        if gain >= cheaper + DEARER_DB and gain > alike:
            kept.append((step, score, gain))
    return sorted(kept, key=lambda k: (-k[2], k[0].units, k[0].price))
