"""Progress bars on stderr, with the time that is left."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

__all__ = ["Progress", "progress_bars"]

Progress = Callable[[str, int, int | None], None]


@contextlib.contextmanager
def progress_bars(*, show: bool) -> Iterator[Progress | None]:
    """Yield a function (stage, done, total) that draws one bar a stage; None where there is no terminal.

    What stands behind a semicolon in the name of a stage may change while it runs: `trials; the best so far scores 0.9`.

    Args:
        show: False for output that a machine reads, or a log.
    """
    if not show or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    bars = Bars(
        TextColumn("{task.description:<16}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    tasks: dict[str, object] = {}

    def update(stage: str, done: int, total: int | None) -> None:
        name = stage.partition(";")[0]
        if name not in tasks:
            for task in bars.tasks:
                bars.update(task.id, total=task.total or 1, completed=task.total or 1)
            tasks[name] = bars.add_task(stage, total=total)
        bars.update(tasks[name], description=stage, completed=done, total=total)  # type: ignore[arg-type]

    with bars:
        yield update
