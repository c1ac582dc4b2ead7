"""Tables and numbers of the reports, as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["number", "shown", "table"]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table.

    Args:
        head: Titles of the columns.
        rows: Cells, as many as there are columns.

    Example:
        >>> print(table(("layer", "loss"), [("conv1", "0.1")]))
        | layer | loss |
        | --- | --- |
        | conv1 | 0.1 |
    """
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )


def number(value: float | None) -> str:
    """Return a number with five digits; nothing for None."""
    if value is None:
        return ""
    return f"{value:.5g}" if math.isfinite(value) else str(value)


def shown(score: float | Mapping[str, float]) -> str:
    """Return a score, or several by name, as text."""
    if isinstance(score, Mapping):
        return ", ".join(f"{n} {number(v)}" for n, v in score.items())
    return number(score)
