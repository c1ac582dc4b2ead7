"""Protobuf text, read with a pydantic model as its schema; errors carry file, line and column.

Numbers of type float are float32 and come back as the shortest decimal that means the same float32, so
that 0.01 stays 0.01. A field that stands twice counts as last written, and so does a choice of several
(oneof); both are noted. Texts copied from a page are taken as they are meant: `...` is passed over, and
where all line breaks were lost, so that the whole text is one comment, the comment is read.

Source: ascend.md 12 for the form; https://protobuf.dev/reference/protobuf/textformat-spec.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from google.protobuf import text_format
from pydantic import ValidationError

from calibrant.errors import ConfigError, ConfigTypeError, ConfigValueError, did_you_mean
from calibrant.recipe import Note
from calibrant.text.schema import config_error
from calibrant.text.textproto_places import Places, field_names, places, tokens
from calibrant.text.textproto_schema import (
    SIGNED,
    FieldType,
    Message,
    field_types,
    message_class,
)
from calibrant.text.yaml_text import Document, KeyPath, path_text

__all__ = ["field_names", "origin_of", "parse", "place_of"]

M = TypeVar("M", bound=Message)

_UNKNOWN = re.compile(r'has no field named "([^"]*)"')
_PLACE = re.compile(r"^\d+:\d+ : (?:'.*': )?", re.DOTALL)
_WRONG_TYPE = {
    "Couldn't parse integer": "a whole number",
    "Couldn't parse float": "a number",
    'Expected "true" or "false"': "true or false",
    "Expected string": "a text in quotes",
}


def parse(text: str, path: Path | None, model: type[M]) -> tuple[M, Document, tuple[Note, ...]]:
    """Read a protobuf text.

    Returns:
        The message, the document with the places of its fields, and what to note about the text.

    Raises:
        ConfigValueError: No valid text, an unknown field or enumeration value, a number out of range.
        ConfigTypeError: A value of the wrong type.
    """
    source = "the configuration" if path is None else str(path)
    text, notes = _as_meant(text.removeprefix("\ufeff"), source, model)
    found = places(text, model)
    text = _without_names(text, found, model)
    message = message_class(model)()
    try:
        text_format.Merge(text, message)
    except text_format.ParseError as e:
        raise _parse_error(e, text, source, found, model) from e
    document = Document(
        _content(message, model),
        source,
        {p: _line(text, at) for p, at in found.keys.items()},
        {p: _column(text, at) for p, at in found.keys.items()},
    )
    try:
        checked = model.model_validate(document.content)
    except ValidationError as e:
        raise config_error(e, model, document) from e
    for doubled, first in found.doubled.items():
        kind = _type_at(model, doubled)
        merged = kind is not None and kind.message is not None
        what = "the two are merged" if merged else "the last one counts"
        text_of = f"{path_text(doubled)} stands in line {_line(text, first)} as well; {what}."
        notes.append(Note(document.where(doubled), text_of, honoured=True))
    notes += _notes_on_choices(document, (), model, found)
    return checked, document, tuple(notes)


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
                    f"{source}:{_line(text, at)}:{_column(text, at)}",
                    "'...' stands for what was left out; it is passed over.",
                    honoured=True,
                )
            )
    return text, notes


def _without_names(text: str, found: Places, model: type[Message]) -> str:
    """Replace the names of numbers by the numbers, at the same length."""
    for path, at in found.values.items():
        kind = _type_at(model, path)
        name = re.match(r"[A-Z_]+", text[at:])
        if kind is not None and name is not None and name[0] in kind.named:
            number = repr(kind.named[name[0]]).ljust(len(name[0]))
            text = text[:at] + number + text[at + len(name[0]) :]
    return text


def _type_at(model: type[Message], path: KeyPath) -> FieldType | None:
    kind: FieldType | None = None
    current: type[Message] | None = model
    for key in path:
        if isinstance(key, str):
            kind = field_types(current).get(key) if current is not None else None
            current = kind.message if kind is not None else None
    return kind


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


def _notes_on_choices(
    document: Document, prefix: KeyPath, model: type[Message], found: Places
) -> list[Note]:
    """Note choices of which more than one was written."""
    notes = []
    written = {
        p[len(prefix)] for p in found.keys if len(p) > len(prefix) and p[: len(prefix)] == prefix
    }
    for names in model.ONEOFS.values():
        both = [n for n in names if n in written]
        if len(both) > 1:
            last = max(both, key=lambda n: found.keys[(*prefix, n)])
            path = (*prefix, last)
            notes.append(
                Note(
                    document.where(path),
                    f"{' and '.join(both)} exclude each other; the last one, {last}, counts.",
                    honoured=True,
                )
            )
    for path in list(found.keys):
        inner = path[len(prefix) :]
        is_child = path[: len(prefix)] == prefix and (
            len(inner) == 1 or (len(inner) == 2 and isinstance(inner[1], int))
        )
        kind = _type_at(model, inner) if is_child else None
        if kind is not None and kind.message is not None and kind.repeated == (len(inner) == 2):
            notes += _notes_on_choices(document, path, kind.message, found)
    return notes


def _parse_error(
    error: Any, text: str, source: str, found: Places, model: type[Message]
) -> ConfigError:
    """Tell protobuf's error with field, value, what is allowed and a near name."""
    line, column = error.GetLine() or 1, error.GetColumn() or 1
    where = f"{source}:{line}:{column}"
    what = _PLACE.sub("", str(error)).rstrip(".")
    lines = text.split("\n")
    offset = sum(len(part) + 1 for part in lines[: line - 1]) + column - 1
    unknown = _UNKNOWN.search(what)
    if unknown:
        path = next((p for p, at in found.keys.items() if at == offset), (unknown[1],))
        kind = _type_at(model, path[:-1]) if len(path) > 1 else None
        owner = kind.message if kind is not None and kind.message is not None else model
        known = list(owner.model_fields)
        return ConfigValueError(
            f"{where}: {path_text(path)} is not known. Known: {', '.join(known)}."
            + did_you_mean(unknown[1], known)
        )
    path_or_none = found.path_of_value(offset)
    token = next((t for t, at in tokens(text[offset:])), "")
    if path_or_none is not None and token:
        kind = _type_at(model, path_or_none)
        is_value = f"{where}: {path_text(path_or_none)} is {token}"
        for start, allowed in _WRONG_TYPE.items():
            if what.startswith(start):
                if kind is not None and kind.named and re.fullmatch(r"[A-Za-z_]\w*", token):
                    return ConfigValueError(
                        f"{is_value}; it is a number or {', '.join(kind.named)}."
                        + did_you_mean(token, kind.named)
                    )
                names = ", ".join(kind.named) if kind is not None else ""
                return ConfigTypeError(
                    f"{is_value}; it is {allowed}{f' or {names}' if names else ''}."
                )
        if what.startswith("Value out of range"):
            signed = kind is not None and kind.proto == SIGNED
            bounds = "[-2147483648, 2147483647]" if signed else "[0, 4294967295]"
            return ConfigValueError(f"{is_value}; it lies in {bounds}.")
        if kind is not None and kind.enum:
            return ConfigValueError(
                f"{is_value}; it is one of {', '.join(kind.enum)}."
                + did_you_mean(token.strip("\"'"), kind.enum)
            )
    return ConfigValueError(f"{where}: this is not valid protobuf text: {what}.")


def _line(text: str, offset: int) -> int:
    return text.count("\n", 0, offset) + 1


def _column(text: str, offset: int) -> int:
    return offset - text.rfind("\n", 0, offset)
