"""JSON with lines, without surprises.

Each key path knows its line. A key that stands twice is an error, and so are NaN, Infinity, comments and
trailing commas: each with line and column, and the last two by their name.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from pathlib import Path
from typing import Any

from calibrant.errors import ConfigValueError, Problems
from calibrant.text.yaml_text import Document, KeyPath, path_text

__all__ = ["is_json", "json_keys", "read_json"]

_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?P<real>(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_KEY = re.compile(r'"([^"\\]*)"\s*:')
_WORDS = {"true": True, "false": False, "null": None}
_DEEPEST = 100


def is_json(text: str) -> bool:
    """Say whether a text is meant to be a JSON object: it begins with a brace."""
    return text.lstrip("\ufeff \t\r\n").startswith("{")


def json_keys(text: str) -> tuple[set[str], set[str]]:
    """Return the outermost keys of a JSON object and those one level below, to tell what it is.

    A text that is not valid has all its keys in both. Other texts have none.
    """
    if not is_json(text):
        return set(), set()
    try:
        content = read_json(text, None).content
    except ConfigValueError:
        found = set(_KEY.findall(text))
        return found, found
    inner = {k for value in content.values() if isinstance(value, dict) for k in value}
    return set(content), inner


def read_json(text: str, path: Path | None, problems: Problems | None = None) -> Document:
    """Read a JSON object.

    Args:
        text: The text.
        path: Its file, or None.
        problems: Gets the keys that stand twice, of which the first counts then; without it they are raised.

    Raises:
        ConfigValueError: No valid JSON, or a key twice; with line and column.
    """
    source = "the configuration" if path is None else str(path)
    reader = _Reader(text.removeprefix("\ufeff"), source)
    content: Any = None
    with reader.problems.caught():
        content = reader.document()
    if problems is None or content is None:
        reader.problems.check()
    else:
        problems.add(*reader.problems.errors)
    return Document(content, source, reader.lines)


class _Reader:
    """Reads by recursive descent; `at` is the place in the text."""

    def __init__(self, text: str, source: str) -> None:
        self._text, self._source = text, source
        self._at = 0
        self._breaks = [m.start() for m in re.finditer("\n", text)]
        self.lines: dict[KeyPath, int] = {}
        self.problems = Problems()

    def document(self) -> Any:
        content = self._value(())
        self._skip()
        if self._at < len(self._text):
            raise self._error("there is more behind the end of the object")
        if "\n" not in self._text.strip():  # one line says nothing about where
            self.lines.clear()
        return content

    def _value(self, path: KeyPath) -> Any:
        if len(path) > _DEEPEST:
            raise self._error("this is nested too deeply for a configuration")
        self._skip()
        self.lines.setdefault(path, self._line())
        start = self._text[self._at : self._at + 1]
        if start == "{":
            return self._object(path)
        if start == "[":
            return self._array(path)
        if start == '"':
            return self._string()
        number = _NUMBER.match(self._text, self._at)
        if number:
            self._at = number.end()
            return (float if number["real"] else int)(number[0])
        for word, value in _WORDS.items():
            if self._text.startswith(word, self._at):
                self._at += len(word)
                return value
        raise self._error("a value is expected here")

    def _object(self, path: KeyPath) -> dict[str, Any]:
        content: dict[str, Any] = {}
        self._at += 1
        while self._more("}", first=not content):
            self._skip()
            if not self._text.startswith('"', self._at):
                raise self._error("a key in double quotes is expected here")
            line, start = self._line(), self._at
            key = self._string()
            here = (*path, key)
            if key in content:
                first = f"in line {self.lines[here]}" if here in self.lines else "before"
                what = f"'{path_text(here)}' stands here and {first}; a key stands once"
                self.problems.add(self._error(what, at=start))
                self._expect(":")
                self._value((*here, ""))  # read over it; the key is nobody's
                continue
            self._expect(":")
            self.lines[here] = line
            content[key] = self._value(here)
        return content

    def _array(self, path: KeyPath) -> list[Any]:
        content: list[Any] = []
        self._at += 1
        while self._more("]", first=not content):
            content.append(self._value((*path, len(content))))
        return content

    def _more(self, end: str, *, first: bool) -> bool:
        """Step over a comma, or over the end; say whether another element follows."""
        self._skip()
        if self._text.startswith(end, self._at):
            self._at += 1
            return False
        if first:
            return True
        comma = self._at
        self._expect(",", or_=end)
        self._skip()
        if self._text.startswith(end, self._at):
            self._at = comma
            raise self._error(f"a comma before '{end}' is not allowed in JSON")
        return True

    def _string(self) -> str:
        found = _STRING.match(self._text, self._at)
        if not found:
            raise self._error("this text has no closing quote, or a line break in it")
        try:
            value = json.loads(found[0])
        except ValueError as e:
            raise self._error(f"this text is not valid: {e}") from e
        self._at = found.end()
        return str(value)

    def _expect(self, sign: str, *, or_: str | None = None) -> None:
        self._skip()
        if not self._text.startswith(sign, self._at):
            raise self._error(f"'{sign}'{f' or {or_!r}' if or_ else ''} is expected here")
        self._at += 1

    def _skip(self) -> None:
        space = _SPACE.match(self._text, self._at)
        assert space is not None
        self._at = space.end()
        if self._text.startswith(("//", "/*", "#"), self._at):
            raise self._error("comments are not allowed in JSON")

    def _line(self) -> int:
        return bisect_left(self._breaks, self._at) + 1

    def _error(self, what: str, *, at: int | None = None) -> ConfigValueError:
        """Return an error at a place of the text, by default where the reader is."""
        at = self._at if at is None else at
        line, column = bisect_left(self._breaks, at) + 1, at - self._text.rfind("\n", 0, at)
        end = ", and the text ends" if at >= len(self._text) else ""
        return ConfigValueError(
            f"{self._source}:{line}:{column}: this is not valid JSON: {what}{end}."
        )
