"""Training: what it made of the calibrated model, and its way there, check by check."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from calibrant.report.page.numbers import NOTHING, as_float, figure
from calibrant.report.page.run import Run
from calibrant.report.page.section import Chart, Section, Table

__all__ = ["section"]


def section(run: Run) -> Section | None:
    """Return the training of a run."""
    told = (run.summary or {}).get("training")
    if not told:
        return None
    scores, checks = told["scores"], told["checks"]
    before, after = as_float(scores["calibrated"]), as_float(scores["trained"])
    table = Table(
        ("Step", "Epoch", "Loss", "Score", "Seconds"),
        [_row(c) for c in checks],
        "Checks on samples that were not trained on",
    )
    charts = []
    if checks:
        best = figure(after)
        charts.append(
            Chart(
                "training",
                f"The score at {len(checks)} checks of the training, {best} at the one that was kept, beside {figure(before)} "
                "before it.",
                {
                    "steps": [c["step"] for c in checks],
                    "scores": [_known(c["score"]) for c in checks],
                    "before": _known(before),
                },
                table,
            )
        )
    kept = "The trained model was kept" if told["better"] else "Training gained nothing"
    return Section(
        "training",
        "Training",
        "charts.html",
        {
            "intro": f"{kept}: {figure(before)} calibrated, {figure(after)} trained, {figure(scores['float'])} in float. "
            f"{told['steps']} steps of {told['batch_size']} samples, {as_float(told['epochs']):.3g} epochs, "
            f"{as_float(told['seconds']):.0f} s.",
            "notes": told["notes"],
            "charts": charts,
            "table": table,
        },
    )


def _row(check: Mapping[str, Any]) -> tuple[str, ...]:
    loss, score = as_float(check["loss"]), as_float(check["score"])
    return (
        str(check["step"]),
        f"{as_float(check['epoch']):.3g}",
        NOTHING if math.isnan(loss) else f"{loss:.3g}",
        figure(score),
        f"{as_float(check['seconds']):.0f}",
    )


def _known(value: Any) -> float | None:
    number = as_float(value)
    return number if math.isfinite(number) else None
