"""Tables and texts on the terminal, as all commands write them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["console", "escaped", "table"]


def console() -> Console:
    """Return where a command writes; lines are not broken."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def table(*columns: str, title: str | None = None) -> Table:
    """Return an empty table, with a heading where columns are named."""
    from rich.table import Table

    table = Table(
        box=None, show_header=bool(columns), title=title, title_justify="left", pad_edge=False
    )
    if not columns:
        table.add_column(style="dim")
        table.add_column(overflow="fold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    return table


def escaped(text: str) -> str:
    """Return a text whose brackets are no markup."""
    from rich.markup import escape

    return escape(text)
