"""How the error adds up: the SQNR of each layer's output in the quantized model, in the order of execution."""

from __future__ import annotations

import math
from collections.abc import Sequence

from calibrant.report.page.numbers import as_db
from calibrant.report.page.run import Run
from calibrant.report.page.section import Chart, Section, Table

__all__ = ["curve", "section"]


def section(run: Run) -> Section | None:
    """Return the curve."""
    points = curve(run)
    if not points:
        return None
    names = [name for name, _, _ in points]
    table = Table(
        ("Layer", "SQNR of its output", "SQNR if it alone were quantized"),
        [(n, as_db(a), as_db(b)) for n, a, b in points],
        "In order of execution",
        layers=True,
    )
    worst = min(points, key=lambda p: -math.inf if math.isnan(p[1]) else p[1])
    chart = Chart(
        "curve",
        f"Two curves over {len(points)} layers: the SQNR of each output with all errors before it, lowest {as_db(worst[1])} "
        f"at {worst[0]}, and with the layer's own error alone.",
        {
            "names": names,
            "curves": [
                {"name": "with all that arrived", "values": _known([a for _, a, _ in points])},
                {"name": "the layer's own error", "values": _known([b for _, _, b in points])},
            ],
            "unit": "SQNR [dB]",
        },
        table,
    )
    return Section(
        "accumulated",
        "How the error adds up",
        "charts.html",
        {
            "intro": "From input to output. Where the curves are close, most of the error is born there; where they part, it "
            "arrived.",
            "charts": [chart],
            "table": table,
        },
    )


def curve(run: Run) -> list[tuple[str, float, float]]:
    """Return layers in order of execution, with the SQNR of their output and that of their own error [dB]."""
    if run.origins is not None:
        order = {n.name: i for i, n in enumerate(run.network.nodes)} if run.network else {}
        rows = sorted(run.origins.layers, key=lambda r: order.get(r.name, len(order)))
        return [(r.name, r.shares.sqnr_db, _own(r.energy)) for r in rows]
    if run.comparison is not None:
        found = sorted(run.comparison.by_name().values(), key=lambda r: r.index)
        return [
            (r.name, r.metrics.get("sqnr_db", math.nan), r.born.sqnr_db if r.born else math.nan)
            for r in found
        ]
    return []


def _own(energy: float) -> float:
    if not math.isfinite(energy):
        return math.nan
    return -10 * math.log10(energy) if energy > 0 else math.inf


def _known(values: Sequence[float]) -> list[float | None]:
    return [float(f"{v:.5g}") if math.isfinite(v) else None for v in values]
