"""The sensitivity ranking: what the model's outputs lose by each layer alone."""

from __future__ import annotations

from calibrant.report.page.numbers import figure
from calibrant.report.page.run import Run
from calibrant.report.page.section import Chart, Section, Table

__all__ = ["section"]

#: Layers in the chart.
SHOWN = 20

SAYS = {
    "alone": "One layer is quantized, all else computes in float",
    "all-but": "One layer computes in float, all else is quantized",
}


def section(run: Run) -> Section | None:
    """Return the ranking."""
    rank = run.rank
    if rank is None or not rank.layers:
        return None
    rows = [
        (
            r.name,
            r.op_type,
            r.precision,
            ("≈ " if r.estimated else "") + figure(r.score),
            f"{r.loss:.3g}",
            f"{r.cost:,.0f}",
            str(r.rank),
            str(r.rank_per_cost),
        )
        for r in rank.layers
    ]
    table = Table(
        (
            "Layer",
            "Operator",
            "Precision",
            rank.metric,
            "Loss",
            rank.unit,
            "Rank",
            "Rank for its cost",
        ),
        rows,
        "Layers, the one that loses most first",
        layers=True,
    )
    worst = rank.layers[:SHOWN]
    chart = Chart(
        "ranking",
        f"Bar chart of the loss of the {len(worst)} layers that lose most; the first is {worst[0].name}.",
        {
            "names": [r.name for r in worst],
            "labels": [f"{r.name} ({r.precision})" for r in worst],
            "values": [r.loss for r in worst],
            "unit": f"loss by {rank.metric}",
        },
        table,
    )
    return Section(
        "sensitivity",
        "Sensitivity",
        "charts.html",
        {
            "intro": f"{SAYS.get(rank.mode, rank.mode)}. Ranked by {rank.metric} of the model's outputs on {rank.samples} samples.",
            "notes": rank.notes,
            "charts": [chart],
            "table": table,
        },
    )
