"""Protobuf text, read with a pydantic model as its schema; errors carry file, line and column.

Numbers of type float are float32 and come back as the shortest decimal that means the same float32, so
that 0.01 stays 0.01. A field that stands twice counts as last written, with a note, and so does a choice of several
(oneof), unless its message says that two are an error. Everything that is wrong is told at once: first the fields
that protobuf itself does not take, then the values that the schema does not allow. Texts copied from a page are taken as they are meant: `...` is passed over, and
where all line breaks were lost, so that the whole text is one comment, the comment is read.

Source: https://protobuf.dev/reference/protobuf/textformat-spec.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from google.protobuf import text_format

from calibrant.errors import ConfigValueError, Problems
from calibrant.text.note import Note
from calibrant.text.schema import validated
from calibrant.text.textproto_errors import parse_error
from calibrant.text.textproto_places import (
    Places,
    blanked,
    column_of,
    field_names,
    line_of,
    outer_fields,
    places,
    tokens,
)
from calibrant.text.textproto_schema import (
    FieldType,
    Message,
    field_types,
    message_class,
    type_at,
)
from calibrant.text.yaml_text import Document, KeyPath, path_text

__all__ = ["field_names", "origin_of", "parse", "place_of", "says_nothing", "set_aside"]

M = TypeVar("M", bound=Message)


def parse(text: str, path: Path | None, model: type[M]) -> tuple[M, Document, tuple[Note, ...]]:
    """Read a protobuf text.

    Returns:
        The message, the document with the places of its fields, and what to note about the text.

    Raises:
        ConfigValueError: No valid text, an unknown field or enumeration value, a number out of range, or fields
            that exclude each other; all that is wrong, in one error.
        ConfigTypeError: The first of these is a value of the wrong type.
    """
    source = "the configuration" if path is None else str(path)
    problems = Problems()
    text, notes = _as_meant(text.removeprefix("\ufeff"), source, model)
    message, text, found, told = _merged(text, source, model, problems)
    keys = told | found.keys
    document = Document(
        _content(message, model),
        source,
        {p: line_of(text, at) for p, at in keys.items()},
        {p: column_of(text, at) for p, at in keys.items()},
    )
    _check_choices(document, (), model, found, notes, problems)
    checked = validated(model, document, problems)
    problems.check()
    assert checked is not None
    for doubled, first in found.doubled.items():
        kind = type_at(model, doubled)
        merged = kind is not None and kind.message is not None
        what = "the two are merged" if merged else "the last one counts"
        text_of = f"{path_text(doubled)} stands in line {line_of(text, first)} as well; {what}."
        notes.append(Note(document.where(doubled), text_of, honoured=True))
    return checked, document, tuple(notes)


def _merged(
    text: str, source: str, model: type[Message], problems: Problems
) -> tuple[Any, str, Places, dict[KeyPath, int]]:
    """Read a text, without the fields that protobuf does not take.

    Returns:
        The message, the text with these fields blanked out, the places in it, and the offsets of the fields that
        were.

    Raises:
        ConfigError: The text is not valid; together with what was wrong before that place.
    """
    told: dict[KeyPath, int] = {}
    while True:
        found = places(text, model)
        message = message_class(model)()
        plain = _without_names(text, found, model)
        try:
            text_format.Merge(plain, message)
        except text_format.ParseError as e:
            error, field = parse_error(e, plain, source, found, model)
            problems.add(error)
            span = found.span(field) if field is not None else None
            if span is None:
                problems.check()
                raise
            told |= {p: at for p, at in found.keys.items() if at == span[0]}
            text = blanked(text, *span)
        else:
            return message, text, found, told


def set_aside(text: str, path: Path | None, names: Collection[str]) -> tuple[str, dict[str, str]]:
    """Take outermost fields out of a text.

    Returns:
        The text with these fields as spaces, and the place of the first of each name.
    """
    source = "the configuration" if path is None else str(path)
    found: dict[str, str] = {}
    for name, start, end in outer_fields(text):
        if name in names:
            found.setdefault(name, f"{source}:{line_of(text, start)}:{column_of(text, start)}")
            text = blanked(text, start, end)
    return text, found


def says_nothing(text: str) -> bool:
    """Say whether a text has no field at all: nothing but comments and spaces."""
    return not field_names(text) and next(tokens(text), None) is None


def origin_of(document: Document, field: str, index: int | None = None, name: str = "") -> str:
    """Return where a field stands, for the origin of a rule: `quant.cfg:14 override_layer_configs 'conv1'`."""
    at: KeyPath = (field,) if index is None else (field, index)
    line = f":{document.lines[at]}" if at in document.lines else ""
    return " ".join(filter(None, (f"{Path(document.source).name}{line}", field, name)))


def place_of(document: Document, path: KeyPath, text: str) -> str:
    """Return the file and line of a key, with a text of its own: `quant.cfg:15 conv1 quant_bits`."""
    line = f":{document.lines[path]}" if path in document.lines else ""
    return f"{Path(document.source).name}{line} {text}"


# ------------------------------------------------------------------------------------ before reading


def _as_meant(text: str, source: str, model: type[Message]) -> tuple[str, list[Note]]:
    """Blank out what a page leaves in a copied text; places stay where they are."""
    notes: list[Note] = []
    if text.strip().startswith("#") and not any(True for _ in tokens(text)):
        start = re.search(rf"\b(?:{'|'.join(model.model_fields)})\s*[:{{]", text)
        if start is not None:
            text = " " * start.start() + text[start.start() :]
            notes.append(
                Note(
                    source,
                    "The line breaks are lost and all of it is one comment; it is read without the '#'.",
                    honoured=True,
                )
            )
    for token, at in list(tokens(text)):
        if token == "...":
            text = f"{text[:at]}   {text[at + 3 :]}"
            notes.append(
                Note(
                    f"{source}:{line_of(text, at)}:{column_of(text, at)}",
                    "'...' stands for what was left out; it is passed over.",
                    honoured=True,
                )
            )
    return text, notes


def _without_names(text: str, found: Places, model: type[Message]) -> str:
    """Replace the names of numbers by the numbers, at the same length."""
    for path, at in found.values.items():
        kind = type_at(model, path)
        name = re.match(r"[A-Z_]+", text[at:])
        if kind is not None and name is not None and name[0] in kind.named:
            number = repr(kind.named[name[0]]).ljust(len(name[0]))
            text = text[:at] + number + text[at + len(name[0]) :]
    return text


# ------------------------------------------------------------------------------------- after reading


def _content(message: Any, model: type[Message]) -> dict[str, Any]:
    """Return the fields that are set, as plain values."""
    content: dict[str, Any] = {}
    for descriptor, value in message.ListFields():
        kind = field_types(model)[descriptor.name]
        values = [_plain(v, kind) for v in (value if kind.repeated else [value])]
        content[descriptor.name] = values if kind.repeated else values[0]
    return content


def _plain(value: Any, kind: FieldType) -> Any:
    if kind.message is not None:
        return _content(value, kind.message)
    if kind.enum:
        return next(name for name, number in kind.enum.items() if number == value)
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _check_choices(
    document: Document,
    prefix: KeyPath,
    model: type[Message],
    found: Places,
    notes: list[Note],
    problems: Problems,
) -> None:
    """Note choices of which more than one was written, or refuse them where they are exclusive."""
    written = {
        p[len(prefix)] for p in found.keys if len(p) > len(prefix) and p[: len(prefix)] == prefix
    }
    for choice, names in model.ONEOFS.items():
        both = sorted((n for n in names if n in written), key=lambda n: found.keys[(*prefix, n)])
        if len(both) > 1:
            path = (*prefix, both[-1])
            block = f" in {path_text(prefix)}" if prefix else ""
            text = f"{' and '.join(both)} exclude each other{block}"
            where = document.where(path)
            if choice in model.EXCLUSIVE:
                text = f"{where}: {text}; one of them has to go."
                problems.add(ConfigValueError(text))
            else:
                notes.append(
                    Note(where, f"{text}; the last one, {both[-1]}, counts.", honoured=True)
                )
    for path in list(found.keys):
        inner = path[len(prefix) :]
        is_child = path[: len(prefix)] == prefix and (
            len(inner) == 1 or (len(inner) == 2 and isinstance(inner[1], int))
        )
        kind = type_at(model, inner) if is_child else None
        if kind is not None and kind.message is not None and kind.repeated == (len(inner) == 2):
            _check_choices(document, path, kind.message, found, notes, problems)
