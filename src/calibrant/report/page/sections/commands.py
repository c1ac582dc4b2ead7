"""How to make it again: the commands, and what they ran on."""

from __future__ import annotations

from calibrant.report.page.run import Run
from calibrant.report.page.section import Section

__all__ = ["section"]


def section(run: Run) -> Section | None:
    """Return the commands that made the run."""
    summary = run.summary or {}
    lines = list(run.commands.texts) if run.commands is not None else []
    if summary and "record.txt" in summary.get("files", []):
        again = "calibrant quantize MODEL --record record.txt --out again"
    else:
        again = ""
    return Section(
        "again",
        "Make it again",
        "commands.html",
        {
            "lines": lines,
            "again": again,
            "version": summary.get("calibrant", ""),
            "files": summary.get("files", []),
        },
    )
