"""Choose one candidate for the whole model, by the model's outputs.

Candidates are tried in order. A later one is taken where it is strictly better; the search ends early at a score
that is good enough. Where the winner has a second form (a scale for each channel), that is tried last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from calibrant.analysis.judge import Referee, Verdict
from calibrant.recipe import Settings
from calibrant.tuning.driver import Strategy
from calibrant.tuning.space import Candidate

__all__ = ["by_model"]


def by_model(
    tried: Sequence[Candidate], later: Mapping[Settings, Candidate], referee: Referee
) -> Strategy[Candidate, Verdict, Candidate]:
    """Return the best candidate, of equal ones the first.

    Args:
        tried: All candidates, in order.
        later: Settings of a candidate -> what is tried besides where it wins.
        referee: Says which of two verdicts is better, and which is good enough.
    """
    best = tried[0]
    reached = yield best
    for other in tried[1:]:
        if referee.is_enough(reached):
            return best
        verdict = yield other
        if referee.better(verdict, reached):
            best, reached = other, verdict
    again = later.get(best.settings)
    if again is not None and not referee.is_enough(reached):
        verdict = yield again
        if referee.better(verdict, reached):
            best = again
    return best
