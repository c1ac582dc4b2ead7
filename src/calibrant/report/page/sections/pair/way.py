"""How both runs were made."""

from __future__ import annotations

from calibrant.report.page.run import Run
from calibrant.report.page.section import Section

__all__ = ["section"]


def section(a: Run, b: Run) -> Section:
    """Return the commands of both."""
    sides = [
        {"name": run.name, "lines": list(run.commands.texts) if run.commands is not None else []}
        for run in (a, b)
    ]
    return Section("again", "Make them again", "pair_commands.html", {"sides": sides})
