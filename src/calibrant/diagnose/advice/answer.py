"""The answer to the question what to do now, in a sentence or two."""

from __future__ import annotations

import math

from calibrant.diagnose.advice.keep import GOOD_DB, Kept
from calibrant.diagnose.advice.together import worst_part

__all__ = ["answer_of", "command_of"]


def answer_of(before: float, reached: float, kept: Kept) -> str:
    """Say what to do.

    Args:
        before: The worst part of the outputs now [dB].
        reached: The worst part with the best of all steps [dB].
        kept: Steps as they are shown: what, its score, its gain [dB].
    """
    if kept and kept[0][0].move == "data":
        return "Mend the calibration data first (step 1), then ask again."
    if before >= GOOD_DB:
        return (
            f"The worst part of the outputs has {before:.1f} dB. Measure the task; where it is as good as with the float model, nothing "
            "has to be done."
        )
    if not kept:
        return f"The worst part of the outputs has {before:.1f} dB, and nothing that was tried gains anything."
    enough = [i for i, k in enumerate(kept) if worst_part(k[1]) >= GOOD_DB]
    if enough:
        # the cheapest for the device, then that for the fewest places
        best = min(enough, key=lambda i: (kept[i][0].price, kept[i][0].units, -kept[i][2]))
        step, score, _ = kept[best]
        cost = f" It costs {step.costs}." if step.costs else " It costs the device nothing."
        return f"Take step {best + 1}: it brings the worst part of the outputs from {before:.1f} to {worst_part(score):.1f} dB.{cost}"
    best = max(range(len(kept)), key=lambda i: worst_part(kept[i][1]))
    return (
        f"Nothing that was tried brings the worst part of the outputs to {GOOD_DB:g} dB. Step {best + 1} reaches {reached:.1f} dB "
        f"({_said(before)} now). More takes a higher precision in more layers than were tried, or training."
    )


def command_of(model: str, target: str) -> str:
    """Return the search for the cheapest model that reaches 20 dB."""
    name = "MODEL" if model.startswith("(") else model
    return f"calibrant tune {name} --data DATA --target {target} --metric sqnr_db --min {GOOD_DB:g} --out tuned/"


def _said(db: float) -> str:
    return f"{db:.1f} dB" if math.isfinite(db) else "nothing"
