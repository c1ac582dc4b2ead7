"""The verdict of a comparison: outputs and layers within their limits or not, worst first."""

from __future__ import annotations

from calibrant.report.page.measured import ComparedPart, Comparison
from calibrant.report.page.numbers import NOTHING, as_percent, figure
from calibrant.report.page.run import Run
from calibrant.report.page.section import Section, Table

__all__ = ["section"]

#: Metrics in the tables; the cards have all.
METRICS = ("sqnr_db", "cosine_similarity", "relative_euclidean_distance", "max_absolute_error")


def section(run: Run) -> Section | None:
    """Return what a comparison found."""
    found = run.comparison
    if found is None:
        return None
    below = [row for row in found.layers if not row.passed]
    limits = ", ".join(
        f"{name.replace('_', ' ')} {limit:g}"
        for name, limit in found.limits.items()
        if limit is not None
    )
    sentence = (
        "All outputs are within the limits" if found.passed else "An output is beyond the limits"
    )
    sentence += (
        f"; {len(below)} of {len(found.layers)} layers are beyond them"
        if below
        else ", and so is every layer"
    )
    return Section(
        "comparison",
        "Comparison",
        "compared.html",
        {
            "grade": "good" if found.passed else "bad",
            "sentence": f"{sentence}. {found.samples} samples; limits: {limits or 'none'}.",
            "truth": found.truth,
            "mine": found.mine,
            "outputs": _outputs(found),
            "layers": _layers(found),
            "notes": [*(run.notes if run.summary is None else ()), *found.notes],
            "unmapped": Table(
                ("Node", "Operator", "Reason"),
                [(u.name, u.op_type, u.reason) for u in (*found.unmapped, *found.only_mine)],
                "Nodes without a counterpart",
            ),
        },
    )


def _outputs(found: Comparison) -> Table:
    rows: list[tuple[str, ...]] = []
    for name, output in found.outputs.items():
        rows.append((name, *_figures(output)))
        if len(output.parts) > 1:
            rows += [(f"{name}: {part.name}", *_figures(part)) for part in output.parts]
    columns = (
        "Output",
        *(m.replace("_", " ") for m in METRICS),
        "Worst sample",
        "Within the limits",
    )
    return Table(columns, rows, "Outputs")


def _figures(part: ComparedPart) -> tuple[str, ...]:
    passed = "yes" if part.passed else "no"
    return (*(figure(part.metrics.get(m, "nan")) for m in METRICS), part.worst_sample, passed)


def _layers(found: Comparison) -> Table:
    rows = [
        (
            row.name,
            row.op_type,
            *(figure(row.metrics.get(m, "nan")) for m in METRICS),
            NOTHING if row.born is None else as_percent(row.born.share),
            "yes" if row.passed else "no",
        )
        for row in found.layers
    ]
    columns = (
        "Layer",
        "Operator",
        *(m.replace("_", " ") for m in METRICS),
        "Born here",
        "Within the limits",
    )
    return Table(
        columns, rows, f"Layers, worst {found.metric.replace('_', ' ')} first", layers=True
    )
