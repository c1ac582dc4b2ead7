"""What it did to each layer: the SQNR of its output in both runs, in the order of execution."""

from __future__ import annotations

import math
from collections.abc import Sequence

from calibrant.report.page.numbers import as_db
from calibrant.report.page.run import Run
from calibrant.report.page.section import Chart, Section, Table
from calibrant.report.page.sections.accumulated import curve
from calibrant.report.page.sections.pair.outcome import difference

__all__ = ["section"]


def section(a: Run, b: Run) -> Section | None:
    """Return both curves; the table has the largest loss first."""
    x, y = ({name: whole for name, whole, _ in curve(run)} for run in (a, b))
    names = [n for n in y if n in x]
    if not names:
        return None
    rows = [(n, as_db(x[n]), as_db(y[n]), difference(x[n], y[n])) for n in names]
    order = sorted(range(len(names)), key=lambda i: _change(x[names[i]], y[names[i]]))
    table = Table(
        ("Layer", a.name, b.name, "Change"),
        [rows[i] for i in order],
        "SQNR of each layer's output, the largest loss first",
        layers=True,
    )
    chart = Chart(
        "curve",
        f"Two curves over {len(names)} layers: the SQNR of each output in {a.name} and in {b.name}. "
        f"The largest loss is {rows[order[0]][3]} at {names[order[0]]}, the largest gain {rows[order[-1]][3]} at {names[order[-1]]}.",
        {
            "names": names,
            "curves": [
                {"name": a.name, "values": _known([x[n] for n in names])},
                {"name": b.name, "values": _known([y[n] for n in names])},
            ],
            "unit": "SQNR [dB]",
        },
        table,
    )
    return Section(
        "layers",
        "Layer by layer",
        "charts.html",
        {
            "intro": "The SQNR of each layer's output, with all errors that arrived there, in the order of execution.",
            "charts": [chart],
            "table": table,
        },
    )


def _change(before: float, after: float) -> float:
    change = after - before
    return 0.0 if math.isnan(change) else change


def _known(values: Sequence[float]) -> list[float | None]:
    return [float(f"{v:.5g}") if math.isfinite(v) else None for v in values]
