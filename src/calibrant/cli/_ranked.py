"""A ranking of layers, for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from calibrant.cli._tables import console, escaped, table

if TYPE_CHECKING:
    from calibrant.diagnose import Ranking

__all__ = ["print_ranking"]

#: Layers that are shown without `--verbose`.
_SHOWN = 15

_SAYS = {
    "alone": "one layer quantized, all else float",
    "all-but": "one layer float, all else quantized",
}


def print_ranking(
    ranking: Ranking, files: Sequence[Path], *, per_cost: bool, verbose: bool
) -> None:
    """Write which layers lose most.

    Args:
        ranking: What was found.
        files: What was written.
        per_cost: Order by loss per cost.
        verbose: Show all layers.
    """
    out = console()
    out.print(
        f"[bold]{escaped(ranking.model)}[/bold], {ranking.samples} samples: {_SAYS[ranking.mode]}"
    )
    for precision, score in ranking.baseline.items():
        out.print(f"All layers in {precision}: {ranking.metric} {score:.6g}")
    rows = ranking.per_cost if per_cost else ranking.layers
    order = f"loss per {'multiplication' if ranking.unit == 'macs' else 'byte'}"
    title = f"Layers, largest {order if per_cost else 'loss'} first"
    lost = "won back" if ranking.mode == "all-but" else "loss"
    found = table(
        "layer",
        "type",
        "precision",
        ranking.metric,
        lost,
        ranking.unit,
        "rank",
        "per cost",
        "cause",
        title=title,
    )
    for row in rows if verbose else rows[:_SHOWN]:
        found.add_row(
            escaped(row.name),
            row.op_type,
            row.precision,
            f"{'~' if row.estimated else ''}{row.score:.5g}",
            f"{row.loss:.3g}",
            f"{row.cost:,.0f}",
            str(row.rank),
            str(row.rank_per_cost),
            row.cause or "-",
        )
    out.print(found)
    if not verbose and len(rows) > _SHOWN:
        out.print(f"{len(rows) - _SHOWN} more layers (-v shows them).")
    work = ranking.work
    out.print(
        f"{work['passes']:.1f} passes of the samples for {len(rows)} layers, {work['solving']:.1f} to choose scales."
    )
    for note in ranking.notes:
        out.print(f"Note: {escaped(note)}")
    if files:
        out.print(f"Written: {', '.join(escaped(str(f)) for f in files)}")
