"""Why a layer is not in its cheapest precision: what was tried or looked at that has it cheaper, and lost too much.

Of these the one that differs in the fewest layers from the result says most, of equal ones a trial, whose score is of all samples.
"""

from __future__ import annotations

from calibrant.tuner.markdown import number, shown
from calibrant.tuning.menu import Assignment, Menu
from calibrant.tuning.questions import Found

__all__ = ["why"]


def why(found: Found, menu: Menu) -> dict[str, str]:
    """Return why each raised layer is raised, as a clause; nothing for a layer of which nothing was tried that says it.

    Args:
        found: What a search found.
        menu: Its layers and precisions.
    """
    best = menu.columns(found.best.assignment)
    told: list[tuple[Assignment, int, str]] = []
    for i, t in enumerate(found.trials, 1):
        if not t.reached.met and t.improved == found.best.improved and not t.trained:
            told.append(
                (t.assignment, 0, f"trial {i} scored {shown(t.reached.scores or t.reached.score)}")
            )
    told += [(a, 1, f"it was expected to lose {number(loss)}") for a, loss in found.looks.items()]
    reasons = {}
    for layer in menu.raised(found.best.assignment):
        row = menu.layers.index(layer)
        below = [
            (int((menu.columns(a) != best).sum()), kind, a, text)
            for a, kind, text in told
            if menu.columns(a)[row] < best[row]
        ]
        if not below:
            continue
        differ, _, assignment, text = min(below, key=lambda b: b[:2])
        others = (
            f", with {differ - 1} other layer{'s' * (differ > 2)} changed" if differ > 1 else ""
        )
        reasons[layer] = f"in {assignment[row]}{others}, {text}: too much"
    return reasons
