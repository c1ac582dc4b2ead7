"""Put the page together: sections into templates, with styles, scripts and data inside."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from calibrant._version import __version__
from calibrant.errors import MissingPackageError
from calibrant.report.page.run import Run
from calibrant.report.page.section import Section, Table
from calibrant.report.page.sections import SECTIONS
from calibrant.report.page.sections.pair import PAIR_SECTIONS
from calibrant.text.json_out import plain

__all__ = ["PAGE_FILE", "SIDE_BY_SIDE_FILE", "check_packages", "page_of", "page_of_pair"]

PAGE_FILE, SIDE_BY_SIDE_FILE = "report.html", "side_by_side.html"

HERE = Path(__file__).parent
#: Rows of tables from which on sections are laid out once they are near: all at once, thousands take seconds.
LARGE = 1000
SCRIPTS = ("base.js", "charts.js", "card.js", "graph.js", "page.js")


def check_packages() -> None:
    """Raise before the work begins where the page could not be made after it.

    Raises:
        MissingPackageError: Plotly or Jinja is not installed.
    """
    for name in ("jinja2", "plotly"):
        if importlib.util.find_spec(name) is None:
            raise MissingPackageError(
                f'A report needs the package {name}, which is not installed: pip install "calibrant[report]".'
            )


def page_of(run: Run) -> str:
    """Return the page of a run.

    Raises:
        MissingPackageError: Plotly or Jinja is not installed.
    """
    sections = [found for make in SECTIONS if (found := make(run)) is not None]
    return _page(f"Report: {run.name}", run.name, _model(run), sections)


def page_of_pair(a: Run, b: Run) -> str:
    """Return the page of two runs: what changed from the first to the second, and what it did.

    Raises:
        MissingPackageError: Plotly or Jinja is not installed.
    """
    if a.name == b.name:
        a, b = replace(a, name=f"{a.name} (first)"), replace(b, name=f"{b.name} (second)")
    sections = [found for make in PAIR_SECTIONS if (found := make(a, b)) is not None]
    models = dict.fromkeys((_model(a), _model(b)))
    return _page(
        f"Report: {a.name}, {b.name}", f"{a.name} → {b.name}", ", ".join(models), sections
    )


def _model(run: Run) -> str:
    if run.summary is not None:
        return str(run.summary["model"])
    if run.comparison is not None:
        return f"{run.comparison.mine} against {run.comparison.truth}"
    if run.rank is not None:
        return run.rank.model
    return run.advice.model if run.advice is not None else ""


def _page(title: str, name: str, model: str, sections: Sequence[Section]) -> str:
    check_packages()
    import jinja2
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    assets = HERE / "assets"
    data: dict[str, Any] = {}
    for section in sections:
        data |= section.data
    return environment.get_template("page.html").render(
        title=title,
        name=name,
        model=model,
        sections=sections,
        version=__version__,
        styles=(assets / "page.css").read_text(encoding="utf-8"),
        scripts="\n".join((assets / s).read_text(encoding="utf-8") for s in SCRIPTS),
        plotly=get_plotlyjs(),
        data=_as_script(data),
        large=sum(map(_rows, sections)) > LARGE,
        chart_data=_as_script,
    )


def _rows(section: Section) -> int:
    """Return how many rows the tables of a section have."""
    found = 0
    for value in section.context.values():
        for item in value if isinstance(value, list | tuple) else (value,):
            found += len(item.rows) if isinstance(item, Table) else 0
    return found


def _as_script(data: Mapping[str, Any]) -> str:
    """Return JSON that can stand in a script element: nothing in it ends the element."""
    text = json.dumps(plain(data), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
