"""What a step gains on samples that did not choose it.

The best of many steps on a few samples owes a part of what it gains there to these samples: on others it gains less (the winner's
curse). So steps are chosen on some samples, and the gain that is told is the one on others. A step is told where these others gain

    mean over samples and parts of d  >  t * std(d) / sqrt(n)        d: `analysis.better`, dB;  t: Student, one-sided, 95 %

Source: Thaler, "Anomalies: the winner's curse", Journal of Economic Perspectives 2 (1), 1988.
"""

from __future__ import annotations

from collections.abc import Sequence

from calibrant.analysis.better import MIN_SAMPLES
from calibrant.analysis.probe import Probe
from calibrant.analysis.score import Score
from calibrant.diagnose.advice.keep import Kept, best_first
from calibrant.diagnose.advice.steps import Tried
from calibrant.diagnose.advice.trials import Trials
from calibrant.errors import CalibrantError

__all__ = ["FRESH", "apart", "confirmed", "kept_of"]

#: Samples that gains are told on, where there are so many beside those that choose.
FRESH = 16


def apart(probe: Probe, choosing: int | None) -> tuple[Probe, Probe | None]:
    """Return samples that choose steps, and others that tell what steps gain.

    Args:
        probe: All samples.
        choosing: How many choose; at most half of all. None is half.

    Returns:
        Both; None for the others where they would be fewer than `MIN_SAMPLES`, and all samples choose.
    """
    half = probe.samples // 2
    count = half if choosing is None else min(choosing, half)
    if half < MIN_SAMPLES or len(probe.small) < 2:
        count = probe.samples if choosing is None else choosing
        return (probe.part(count) if count < probe.samples else probe), None
    chosen = probe.part(count)
    taken = {id(b) for b in chosen.small}
    left = [i for i, b in enumerate(probe.small) if id(b) not in taken]
    if not left:
        return chosen, None
    others = probe.only(left)
    others = others.part(FRESH) if others.samples > FRESH else others
    return chosen, others if others.samples >= MIN_SAMPLES else None


def confirmed(fresh: Trials, step: Tried) -> Score | None:
    """Return the score of a step on samples that did not choose it; None where its gain is not clear."""
    try:
        score, comparison = fresh.compared(step.recipe)
    except CalibrantError:  # what could be solved before is refused, such as where memory is short
        return None
    if comparison.can_say and not comparison.gain_db > comparison.noise_db:
        return None
    return score


def kept_of(
    found: Sequence[tuple[Tried, Score]], before: Score, fresh: Trials, now: Score
) -> Kept:
    """Return the steps that are shown, with their scores and gains on samples that did not choose them.

    Args:
        found: What was tried, and the score of each on the samples that choose.
        before: The score of the recipe as it is there.
        fresh: Solves and compares on the others.
        now: The score of the recipe as it is on the others.
    """
    left, sure = list(found), dict[int, Score]()
    while True:
        kept = best_first(left, before)
        new = [step for step, _, _ in kept if id(step) not in sure]
        failed = set[int]()
        for step in new:
            score = confirmed(fresh, step)
            if score is None:
                failed.add(id(step))
            else:
                sure[id(step)] = score
        if not failed:
            return best_first([(step, sure[id(step)]) for step, _, _ in kept], now)
        left = [f for f in left if id(f[0]) not in failed]
