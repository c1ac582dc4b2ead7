"""The sections of a page of two runs: what changed between them, and what it did.

Each is a function from the two runs to a section, or to None where it has nothing to show.
"""

from __future__ import annotations

from collections.abc import Callable

from calibrant.report.page.run import Run
from calibrant.report.page.section import Section
from calibrant.report.page.sections.pair import changes, curves, network, outcome, way

__all__ = ["PAIR_SECTIONS"]

PAIR_SECTIONS: tuple[Callable[[Run, Run], Section | None], ...] = (
    outcome.section,
    changes.section,
    network.section,
    curves.section,
    way.section,
)
