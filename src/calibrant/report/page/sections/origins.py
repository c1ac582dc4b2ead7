"""Where the error comes from: for each layer what arrived, and what is born in it, and of what."""

from __future__ import annotations

import math

from calibrant.report.page.cards import CAUSES, SAID
from calibrant.report.page.measured import OriginRow
from calibrant.report.page.numbers import as_db, as_percent
from calibrant.report.page.run import Run
from calibrant.report.page.section import Chart, Section, Table

__all__ = ["section"]

#: Layers in the chart.
SHOWN = 20


def section(run: Run) -> Section | None:
    """Return the layers, those first in which most is born."""
    if run.origins is None:
        return None
    layers = run.origins.layers
    table = Table(
        (
            "Layer",
            "Operator",
            "Born, below the signal",
            "SQNR of its output",
            "Born here",
            "Arrived",
            "Mostly by",
        ),
        [_row(r) for r in layers],
        "Where the error of each layer's output comes from",
        layers=True,
    )
    worst = layers[:SHOWN]
    chart = Chart(
        "causes",
        f"Stacked bars for the {len(worst)} layers in which most error is born, by cause; the worst is {worst[0].name}.",
        {
            "names": [r.name for r in worst],
            "causes": [
                {
                    "name": text,
                    "values": [_energy(r, key) for r in worst],
                }
                for key, text in CAUSES.items()
                if key != "arrived"
            ],
        },
        table,
    )
    return Section(
        "origins",
        "Where the error comes from",
        "charts.html",
        {
            "intro": f"Of each layer's error a part arrived with its input; the rest is born in it. Measured on {run.origins.samples} "
            "samples. A cause that cancels others counts below zero.",
            "charts": [chart],
            "table": table,
        },
    )


def _energy(row: OriginRow, key: str) -> float | None:
    """Return the energy of one cause over that of the layer's output."""
    born = row.shares.born
    if not math.isfinite(row.energy) or not born:
        return None
    return float(f"{row.energy * getattr(row.shares, key) / born:.4g}")


def _row(row: OriginRow) -> tuple[str, ...]:
    below = -10 * math.log10(row.energy) if row.energy > 0 else math.inf
    return (
        row.name,
        row.op_type,
        as_db(below) if math.isfinite(row.energy) else "0 dB",
        as_db(row.shares.sqnr_db),
        as_percent(row.shares.born),
        as_percent(row.shares.arrived),
        SAID.get(row.cause, "nothing"),
    )
