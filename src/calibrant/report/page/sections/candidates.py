"""The candidates: what was tried, what each reached, and why one was taken."""

from __future__ import annotations

from typing import Any

from calibrant.report.page.numbers import as_db, as_float, figure
from calibrant.report.page.run import Run
from calibrant.report.page.section import Chart, Section, Table

__all__ = ["section"]


def section(run: Run) -> Section | None:
    """Return what was tried."""
    if run.summary is None or not run.summary["decisions"]:
        return None
    found = run.summary["decisions"]
    rows = [
        (
            d["stage"],
            d["name"],
            _score(d),
            "yes" if d["chosen"] else "",
            d["reason"] or ("taken" if d["chosen"] else ""),
        )
        for d in found
    ]
    table = Table(
        ("Decision", "Setting", "Score", "Taken", "Why"), rows, "Settings that were tried"
    )
    stages = dict.fromkeys(d["stage"] for d in found)
    charts = [_chart(stage, [d for d in found if d["stage"] == stage], table) for stage in stages]
    return Section(
        "candidates",
        "Candidates",
        "charts.html",
        {
            "intro": "What the recipe leaves open was decided by trying it on samples that the ranges do not come from. "
            "The simpler setting stays unless another one is clearly better.",
            "charts": charts,
            "table": table,
        },
    )


def _chart(stage: str, found: list[dict[str, Any]], table: Table) -> Chart:
    sqnr = found[0]["metric"] == "sqnr"
    unit = "SQNR of the outputs [dB]" if sqnr else str(found[0]["metric"])
    best = next((d["name"] for d in found if d["chosen"]), "none")
    return Chart(
        "choices",
        f"Bar chart of {unit} for {len(found)} settings of {stage}; taken: {best}.",
        {
            "title": stage.capitalize(),
            "unit": unit,
            "names": [d["name"] for d in found],
            "scores": [as_float(d["score"]) for d in found],
            "chosen": [bool(d["chosen"]) for d in found],
        },
        table,
    )


def _score(d: dict[str, Any]) -> str:
    return as_db(d["score"]) if d["metric"] == "sqnr" else f"{figure(d['score'])} ({d['metric']})"
