"""How recipes and their parts show themselves: what is said, and nothing that is at its default."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from typing import Any

__all__ = ["shown"]

#: Members of a long tuple that are written out.
MEMBERS = 8


def shown(value: Any) -> str:
    """Return a dataclass as Python would make it, without the fields that are at their defaults.

    Of a tuple with many members the first are written out, and the rest is counted.
    """
    return f"{type(value).__name__}({', '.join(_said(value))})"


def _said(value: Any) -> Iterator[str]:
    for f in fields(value):
        found = getattr(value, f.name)
        if f.default is not MISSING or f.default_factory is not MISSING:
            if f.compare and found != _default(f):
                yield f"{f.name}={_text(found)}"
        else:
            yield f"{f.name}={_text(found)}"


def _default(f: Field[Any]) -> Any:
    return f.default_factory() if f.default_factory is not MISSING else f.default


def _text(value: Any) -> str:
    if not isinstance(value, tuple) or len(value) <= MEMBERS:
        return repr(value)
    first = ", ".join(map(repr, value[:MEMBERS]))
    return f"({first}, and {len(value) - MEMBERS} more)"
