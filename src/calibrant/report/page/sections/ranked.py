"""The verdict of a ranking alone: in how few layers the loss lies."""

from __future__ import annotations

import math

from calibrant.report.page.measured import Rank
from calibrant.report.page.numbers import as_percent
from calibrant.report.page.run import Run
from calibrant.report.page.section import Section

__all__ = ["section", "sentence"]

#: The share of all losses that the named layers have together, and how many are named at the most.
MOST, NAMED = 0.5, 5


def section(run: Run) -> Section | None:
    """Return the verdict, where the folder holds a ranking and neither a model nor a comparison."""
    if run.rank is None or any((run.summary, run.comparison, run.advice)):
        return None
    return Section(
        "verdict",
        "Verdict",
        "ranked.html",
        {"sentence": sentence(run.rank), "notes": run.notes},
    )


def sentence(rank: Rank) -> str:
    """Say which layers have half of all losses."""
    rows = list(rank.by_name().values())
    rows.sort(key=lambda r: r.rank)
    losses = [max(0.0, r.loss) if math.isfinite(r.loss) else math.inf for r in rows]
    total = sum(losses)
    if not total:
        return f"No layer loses anything by {rank.metric}."
    if math.isinf(total):
        return f"Layer '{rows[0].name}' loses everything: its score is not finite."
    count = next(n for n in range(1, len(rows) + 1) if sum(losses[:n]) >= MOST * total)
    share = as_percent(sum(losses[:count]) / total)
    if count > NAMED:
        return f"The loss is spread: it takes {count} of {len(rows)} layers for {share} of it. The worst is '{rows[0].name}'."
    named = ", ".join(f"'{r.name}'" for r in rows[:count])
    which = f"Layer {named} has" if count == 1 else f"Layers {named} have"
    return f"{which} {share} of the loss of all {len(rows)} layers, by {rank.metric}."
