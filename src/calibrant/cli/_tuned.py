"""A tuning run, for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from calibrant.cli._tables import console, escaped, table
from calibrant.tuner.markdown import shown
from calibrant.tuner.moves.told import HEADINGS, row_of
from calibrant.tuner.report import said_of_samples

if TYPE_CHECKING:
    from calibrant.tuner import TuningResult

__all__ = ["print_tuned"]

#: Raised layers that are named in a row.
_NAMED = 4


def print_tuned(result: TuningResult, files: Sequence[Path]) -> None:
    """Write what was tried, and what it led to.

    Args:
        result: What was found.
        files: What was written.
    """
    out = console()
    verdict = "[bold green]Met[/bold green]" if result.met else "[bold red]Not met[/bold red]"
    out.print(
        f"{verdict}: {escaped(result.metric)} {shown(result.score)} against {shown(result.float_score)} in float; required: "
        f"{escaped(str(result.required))}"
    )
    rows = table("", "for", result.metric, "met", "cost, of the dearest", "raised", title="Trials")
    highest = max(result.costs.values(), default=0.0) or 1.0
    for i, t in enumerate(result.search.trials, 1):
        raised = result.menu.raised(t.assignment)
        named = ", ".join(f"{n} ({p})" for n, p in list(raised.items())[:_NAMED])
        more = f" and {len(raised) - _NAMED} more" if len(raised) > _NAMED else ""
        rows.add_row(
            f"[bold]{i}[/bold]" if t is result.best else str(i),
            t.phase,
            shown(t.reached.scores or t.reached.score),
            "yes" if t.reached.met else "no",
            f"{100 * t.cost / highest:.1f} %",
            escaped(f"{named}{more}" or "none"),
        )
    out.print(rows)
    if result.moves:
        moves = table(*HEADINGS, title="Moves that keep the cost [dB]")
        for move in [m for m in result.moves if m.taken] or result.moves[:_NAMED]:
            moves.add_row(*map(escaped, row_of(move.content())))
        out.print(moves)
        out.print(f"Moves tried: {len(result.moves)}; tuning_report.md lists them.")
    counts = ", ".join(
        f"{n} in {p}" for p, n in result.menu.counts(result.best.assignment).items()
    )
    out.print(f"Layers: {counts}. {escaped(result.search.reason)}")
    for line in said_of_samples(result.content()):
        out.print(line)
    out.print(
        f"{result.counts.full} full evaluations, {result.counts.partial_samples} samples in shorter runs, "
        f"{result.counts.precheck_samples} in looks at few samples, {result.seconds:.0f} s."
    )
    for note in result.notes:
        out.print(f"Note: {escaped(note)}")
    out.print(f"Written: {', '.join(escaped(f.name) for f in files)}")
