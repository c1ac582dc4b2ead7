"""`calibrant list`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Annotated, Any, Literal

import typer

from calibrant.cli._options import Debug, Json

__all__ = ["EXAMPLES", "list_names"]

EXAMPLES = """Examples:

`calibrant list algorithms`

`calibrant list targets --json`
"""


class Kind(StrEnum):
    """What can be listed."""

    ALGORITHMS = "algorithms"
    TARGETS = "targets"
    METRICS = "metrics"
    DIALECTS = "dialects"


def list_names(
    kind: Annotated[Kind, typer.Argument(help="What to list.", show_default=False)],
    *,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the algorithms, targets, metrics or dialects that there are, those of installed packages among them."""
    from calibrant.cli._summary import print_json

    rows = list(_LISTS[kind]())
    if as_json:
        print_json({kind.value: rows})
        return
    width = max(len(row["name"]) for row in rows)
    group = ""
    for row in rows:
        if row.get("for", group) != group:
            group = row["for"]
            typer.echo(f"{group}:")
        typer.echo(f"  {row['name']:<{width}}  {row['what']}")


def _algorithms() -> Iterator[dict[str, Any]]:
    from calibrant import algorithms

    named = algorithms.names()
    kinds: tuple[Literal["activation", "weight"], ...] = ("activation", "weight")
    for kind in kinds:
        for name in named[kind]:
            options = [o.name for o in algorithms.describe(kind, name)]
            what = algorithms.about(kind, name)
            yield {"name": name, "for": f"{kind}s", "what": what, "options": options}


def _targets() -> Iterator[dict[str, Any]]:
    from calibrant.graph import targets

    for name in targets.names():
        target = targets.get(name)
        yield {"name": name, "what": _sentence(target.description)}


def _metrics() -> Iterator[dict[str, Any]]:
    from calibrant.analysis.metrics import MEASURES
    from calibrant.analysis.tasks.registry import TASK_METRICS, about
    from calibrant.numerics.metrics import METRICS as OF_SEARCHES

    for name in TASK_METRICS:
        what, options = about(name)
        behind = f" Options: {', '.join(options)}." if options else ""
        yield {"name": name, "for": "evaluate --metric", "what": what + behind, "options": options}
    for name, metric in OF_SEARCHES.items():
        best = "higher is better" if metric.higher_is_better else "lower is better"
        yield {"name": name, "for": "searches and promotion", "what": best}
    for name, measure in MEASURES.items():
        yield {"name": name, "for": "compare, sensitivity", "what": _first_line(measure.function)}


def _dialects() -> Iterator[dict[str, Any]]:
    from calibrant.dialects import dialects

    for name, dialect in dialects().items():
        writes = dialect.dump is not None or dialect.dump_for is not None
        yield {
            "name": name,
            "what": f"{dialect.title} ({'read and written' if writes else 'read'})",
        }


_LISTS: dict[Kind, Callable[[], Iterator[dict[str, Any]]]] = {
    Kind.ALGORITHMS: _algorithms,
    Kind.TARGETS: _targets,
    Kind.METRICS: _metrics,
    Kind.DIALECTS: _dialects,
}


def _first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").split("\n", 1)[0]


def _sentence(text: str) -> str:
    return " ".join(text.split()).split(". ", 1)[0].rstrip(".") + "."
