"""The parts of a tuning report that a vendor's own procedure has: its trials phase by phase, its ranking, what to try next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from calibrant.tuner.markdown import shown, table

__all__ = ["told_layers", "told_trials"]

#: Layers of a ranking that are shown.
SHOWN = 20


def told_trials(report: Mapping[str, Any]) -> list[str]:
    """Return the trials, and what to try next.

    Args:
        report: Content of `tuning_report.json`.
    """
    found = [
        "## Trials",
        f"Every configuration that the procedure `{report['strategy']}` evaluated, in order.",
        table(
            ("", "phase", "change", report["metric"], "met", "cost", "layers"),
            (_trial(i, t) for i, t in enumerate(report["trials"], 1)),
        ),
    ]
    if report["advice"]:
        found += ["## What to try next", "\n".join(f"- {line}" for line in report["advice"])]
    return found


def _trial(index: int, t: Mapping[str, Any]) -> Sequence[str]:
    return (
        f"**{index}**" if t["best"] else str(index),
        t["phase"],
        t["change"],
        shown(t["scores"] or t["score"]),
        "yes" if t["met"] else "no",
        f"{t['cost']:.6g}",
        ", ".join(f"{n} {p}" for p, n in t["layers"].items() if n),
    )


def told_layers(report: Mapping[str, Any]) -> list[str]:
    """Return the ranking, and what each layer of it ended in; nothing where the procedure ranked none."""
    if not report["ranking"]:
        return []
    precisions = {r["name"]: r["precision"] for r in report["by_layer"]}
    first = list(report["ranking"].items())[:SHOWN]
    left = len(report["ranking"]) - len(first)
    return [
        "## Ranking",
        f"By {report['ranked_by']}; those that lose most first{f', {left} more are in the JSON' if left else ''}.",
        table(
            ("layer", "value", "ends in"),
            ((n, f"{v:.7g}", precisions.get(n, "")) for n, v in first),
        ),
    ]
