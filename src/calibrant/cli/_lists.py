"""Lists on the command line: `[a,b]`, `['a','b']`, nested `[[a,b],[c]]`, an option given several times, and `@file`.

Names keep every sign that is not part of the list itself: `/`, `.`, `:` and spaces inside. A name that holds a comma or a
bracket stands in quotes. `@names.txt` reads one name, or one list, from each line of a file; `#` at the start of a line is
a remark.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from calibrant.errors import ConfigValueError

__all__ = ["Names", "flat", "names_of"]

#: Names, and lists of names.
Names = list["str | list[str]"]


def names_of(values: Sequence[str] | None, option: str) -> Names | None:
    """Return what an option was given, all together; None where it was not given.

    Raises:
        ConfigValueError: A bracket or a quote is not closed, lists are nested too deep, or a file cannot be read.

    Example:
        >>> names_of(["[[/a/Conv,b.0],['c']]", "d"], "-i")
        [['/a/Conv', 'b.0'], ['c'], 'd']
    """
    if not values:
        return None
    found: Names = []
    for value in values:
        for text in _lines(value, option):
            found += _parsed(text.strip(), option)
    return found


def flat(names: Names | None, option: str) -> list[str] | None:
    """Return names, none of them in a list of its own.

    Raises:
        ConfigValueError: There is a list inside the list.
    """
    for name in names or ():
        if not isinstance(name, str):
            raise ConfigValueError(f"{option} takes names; {name} is a list inside the list.")
    return None if names is None else [n for n in names if isinstance(n, str)]


def _lines(value: str, option: str) -> list[str]:
    if not value.startswith("@"):
        return [value]
    try:
        text = Path(value[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigValueError(f"{option}: '{value[1:]}' cannot be read: {e}.") from e
    return [x for x in text.splitlines() if x.strip() and not x.lstrip().startswith("#")]


def _parsed(text: str, option: str) -> Names:
    """Return one name, or the entries of one list."""
    if not text.startswith("["):
        return [text.strip("'\"")] if text else []
    items, end = _items(text, 0, option, depth=1)
    if text[end:].strip():
        raise ConfigValueError(
            f"{option}: '{text[end:].strip()}' stands behind the end of a list."
        )
    return items


def _items(text: str, start: int, option: str, *, depth: int) -> tuple[Names, int]:
    """Return the entries of the list that begins at `start`, and where it ends."""
    found: Names = []
    name, i = "", start + 1
    while i < len(text):
        sign = text[i]
        if sign in "'\"" and not name.strip():
            close = text.find(sign, i + 1)
            if close < 0:
                raise ConfigValueError(f"{option}: the quote in '{text}' is not closed.")
            found.append(text[i + 1 : close])
            i, name = close + 1, ""
        elif sign == "[":
            if depth > 1 or name.strip():
                raise ConfigValueError(
                    f"{option}: '{text}' is no list of names, or of lists of names. A name with brackets stands in "
                    "quotes."
                )
            inner, i = _items(text, i, option, depth=depth + 1)
            found.append([n for n in inner if isinstance(n, str)])
        elif sign in ",]":
            if name.strip():
                found.append(name.strip())
            name, i = "", i + 1
            if sign == "]":
                return found, i
        else:
            name, i = name + sign, i + 1
    raise ConfigValueError(f"{option}: the list in '{text}' is not closed with a ].")
