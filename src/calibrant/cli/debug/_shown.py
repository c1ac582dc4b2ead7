"""What the debug tool found, for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from calibrant.cli._tables import console, escaped

if TYPE_CHECKING:
    from calibrant.debug.ranked import Ranked

__all__ = ["print_files", "print_ranked"]

#: Nodes that are shown without `--verbose`.
_SHOWN = 15


def print_ranked(found: Ranked, files: Sequence[Path], *, verbose: bool) -> None:
    """Write a ranking as the vendor's table.

    Args:
        found: The ranking.
        files: What was written.
        verbose: Show all nodes.
    """
    out = console()
    few = found if verbose else replace(found, nodes=found.nodes[:_SHOWN])
    out.print(escaped(few.table()), end="")
    if len(few.nodes) < len(found.nodes):
        out.print(f"{len(found.nodes) - len(few.nodes)} more nodes (-v shows them).")
    worst = found.nodes[0]
    if worst.cause:
        advice = (
            "another range: a larger or fixed threshold, more data, another method"
            if worst.cause == "truncation"
            else "a finer grid: int16, error compensation, or a scale for each channel"
        )
        out.print(
            f"{escaped(worst.name)} loses most by {worst.cause} ({worst.clip_share:.3%} of the values are clipped). That "
            f"asks for {advice}."
        )
    out.print(
        f"{found.samples} samples, {found.work['passes']:.1f} passes of them for {len(found.nodes)} entries."
    )
    for note in found.notes:
        out.print(f"Note: {escaped(note)}")
    print_files(files)


def print_files(files: Sequence[Path]) -> None:
    """Write which files were written."""
    if files:
        console().print(f"Written: {', '.join(escaped(str(f)) for f in files)}")
