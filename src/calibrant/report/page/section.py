"""What a section is: a title, a template, and what the template and the scripts read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Chart", "Section", "Table"]


@dataclass(frozen=True, slots=True)
class Table:
    """A table; every chart has one behind it.

    Args:
        columns: Heads of the columns.
        rows: Texts; a pair of a text and a number sorts by the number. A first cell that is a `node` pair opens its card.
        caption: What it shows.
        layers: The first column holds names of layers, which open their card.
    """

    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    layers: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart that the page draws when it comes into view.

    Args:
        kind: Which function of `charts.js` draws it.
        label: What it shows, for those who do not see it.
        data: What it draws.
        table: The same as a table.
    """

    kind: str
    label: str
    data: Mapping[str, Any]
    table: Table


@dataclass(frozen=True, slots=True)
class Section:
    """One section of the page.

    Args:
        id: Its anchor.
        title: Its title.
        template: File in `templates`.
        context: What the template reads, as `s`.
        data: What scripts read, by key.
    """

    id: str
    title: str
    template: str
    context: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
