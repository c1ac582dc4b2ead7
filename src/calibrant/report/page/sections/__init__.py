"""The sections of a page, in their order: each is a function from a run to a section, or to None where it has nothing to show.

A new section is one file here with `section(run)`, its template, and its name in the list below.
"""

from __future__ import annotations

from collections.abc import Callable

from calibrant.report.page.run import Run
from calibrant.report.page.section import Section
from calibrant.report.page.sections import (
    accumulated,
    advice,
    candidates,
    commands,
    compared,
    debugged,
    graph,
    origins,
    plan,
    ranked,
    search,
    sensitivity,
    training,
    verdict,
)

__all__ = ["SECTIONS"]

SECTIONS: tuple[Callable[[Run], Section | None], ...] = (
    verdict.section,
    debugged.steps,
    compared.section,
    advice.section,
    ranked.section,
    search.section,
    training.section,
    graph.section,
    origins.section,
    accumulated.section,
    sensitivity.section,
    debugged.parts,
    candidates.section,
    plan.section,
    commands.section,
)
