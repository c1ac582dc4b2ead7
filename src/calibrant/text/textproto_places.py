"""Where each field of a protobuf text stands; protobuf's own reader says so only for what is wrong.

This scan is lenient: what it does not understand it passes over, and the reader behind it complains.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from calibrant.text.textproto_schema import Message, field_types
from calibrant.text.yaml_text import KeyPath

__all__ = [
    "Places",
    "blanked",
    "column_of",
    "field_names",
    "line_of",
    "outer_fields",
    "places",
    "tokens",
]

_TOKEN = re.compile(
    r"""(?P<skip>[\s,;]+|\#[^\n]*)|(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|(?P<word>[\w.+-]+)|(?P<sign>.)"""
)
_CLOSING = {"{": "}", "<": ">", "[": "]"}
_FIELD = re.compile(r"([A-Za-z_]\w*)\s*[:{]")


@dataclass(slots=True)
class Places:
    """Places of fields and values.

    Args:
        keys: Offset of the name of each field; of the last one where it stands several times.
        values: Offset of each value.
        doubled: Fields that stand several times and may not, with the offset of the first.
        spans: Every field, inner ones before the outer: where its name and its value begin, and where it ends.
    """

    keys: dict[KeyPath, int] = field(default_factory=dict)
    values: dict[KeyPath, int] = field(default_factory=dict)
    doubled: dict[KeyPath, int] = field(default_factory=dict)
    spans: list[tuple[int, int, int]] = field(default_factory=list)

    def path_of_value(self, offset: int) -> KeyPath | None:
        """Return the field whose value stands at an offset."""
        return next((p for p, at in self.values.items() if at == offset), None)

    def span(self, offset: int) -> tuple[int, int] | None:
        """Return where the field begins and ends whose name or value stands at an offset."""
        return next(
            (((key, end)) for key, value, end in self.spans if offset in (key, value)), None
        )


def tokens(text: str) -> Iterator[tuple[str, int]]:
    """Yield words, texts and signs with their offsets; comments and separators are left out."""
    for found in _TOKEN.finditer(text):
        if not found["skip"]:
            yield found[0], found.start()


def field_names(text: str) -> set[str]:
    """Return the names of the outermost fields.

    Where the text is one comment (copied in such a way that its line breaks were lost), these are the
    names in the comment.
    """
    names, depth, last = set(), 0, ""
    for token, _ in tokens(text):
        if depth == 0 and token in (":", "{", "<") and last.isidentifier():
            names.add(last)
        depth += (token in _CLOSING) - (token in _CLOSING.values())
        last = token
    if not names and not last:
        names = set(_FIELD.findall(text))
    return names


def outer_fields(text: str) -> list[tuple[str, int, int]]:
    """Return every outermost field, in order: its name, where it begins and where it ends."""
    found = Places()
    _Scan(list(tokens(text)), found).message(None, (), "")
    outer: list[tuple[str, int, int]] = []
    for start, _, end in sorted(set(found.spans), key=lambda s: (s[0], -s[2])):
        if not outer or start >= outer[-1][2]:
            name = re.match(r"\w+", text[start:])
            assert name is not None
            outer.append((name[0], start, end))
    return outer


def blanked(text: str, start: int, end: int) -> str:
    """Return a text with a field in it, and the separator behind it, as spaces; lines stay where they are."""
    separator = re.compile(r"\s*[,;]").match(text, end)
    end = separator.end() if separator else end
    return text[:start] + re.sub(r"[^\n]", " ", text[start:end]) + text[end:]


def places(text: str, model: type[Message]) -> Places:
    """Find the place of every field."""
    found = Places()
    _Scan(list(tokens(text)), found).message(model, (), "")
    return found


class _Scan:
    def __init__(self, items: list[tuple[str, int]], found: Places) -> None:
        self._items, self._found, self._at = items, found, 0

    def _peek(self) -> str:
        return self._items[self._at][0] if self._at < len(self._items) else ""

    def _next(self) -> tuple[str, int]:
        self._at += 1
        return self._items[self._at - 1]

    def message(self, model: type[Message] | None, prefix: KeyPath, closing: str) -> None:
        """Read fields up to the closing sign."""
        types = field_types(model) if model is not None else {}
        counts: dict[str, int] = {}
        while self._at < len(self._items):
            name, offset = self._next()
            if name == closing:
                return
            if not name.isidentifier():
                continue
            kind = types.get(name)
            repeated = kind is not None and kind.repeated
            if self._peek() == ":":
                self._next()
            listed = self._peek() == "["
            if listed:
                self._next()
            elements: list[int] = []
            while True:
                path: KeyPath = (*prefix, name)
                if repeated:
                    path = (*path, counts.get(name, 0))
                    self._found.keys.setdefault((*prefix, name), offset)
                elif path in self._found.keys:
                    self._found.doubled.setdefault(path, self._found.keys[path])
                counts[name] = counts.get(name, 0) + 1
                self._found.keys[path] = offset
                elements += self._value(kind.message if kind is not None else None, path)
                if not listed or self._peek() in ("]", ""):
                    break
            if listed and self._at < len(self._items):
                self._next()
            self._found.spans += [(offset, value, self._end()) for value in elements]

    def _end(self) -> int:
        """Return the offset behind what was read last."""
        token, offset = self._items[self._at - 1]
        return offset + len(token)

    def _value(self, model: type[Message] | None, path: KeyPath) -> list[int]:
        """Read a value; return where it begins, if there is one."""
        if self._at >= len(self._items):
            return []
        token, offset = self._next()
        self._found.values[path] = offset
        if token in ("{", "<"):
            self.message(model, path, _CLOSING[token])
        while token[0] in "\"'" and self._peek()[:1] in ('"', "'") and self._peek():
            self._next()  # texts side by side are one text
        return [offset]


def line_of(text: str, offset: int) -> int:
    """Return the line of an offset, from 1."""
    return text.count("\n", 0, offset) + 1


def column_of(text: str, offset: int) -> int:
    """Return the column of an offset, from 1."""
    return offset - text.rfind("\n", 0, offset)
