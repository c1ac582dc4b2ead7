"""Protobuf's errors about a text, told with field, value, what is allowed and a near name."""

from __future__ import annotations

import re
from typing import Any

from calibrant.errors import ConfigError, ConfigTypeError, ConfigValueError, did_you_mean
from calibrant.text.textproto_places import Places, tokens
from calibrant.text.textproto_schema import SIGNED, Message, type_at
from calibrant.text.yaml_text import KeyPath, path_text

__all__ = ["parse_error"]

_UNKNOWN = re.compile(r'has no field named "([^"]*)"')
_PLACE = re.compile(r"^\d+:\d+ : (?:'.*': )?", re.DOTALL)
_WRONG_TYPE = {
    "Couldn't parse integer": "a whole number",
    "Couldn't parse float": "a number",
    'Expected "true" or "false"': "true or false",
    "Expected string": "a text in quotes",
}


def parse_error(
    error: Any, text: str, source: str, found: Places, model: type[Message]
) -> tuple[ConfigError, int | None]:
    """Tell protobuf's error with field, value, what is allowed and a near name.

    Returns:
        The error, and where the field or the value stands that is wrong; None where the text is not valid there.
    """
    line, column = error.GetLine() or 1, error.GetColumn() or 1
    where = f"{source}:{line}:{column}"
    what = _PLACE.sub("", str(error)).rstrip(".")
    lines = text.split("\n")
    offset = sum(len(part) + 1 for part in lines[: line - 1]) + column - 1
    unknown = _UNKNOWN.search(what)
    if unknown:
        path = next((p for p, at in found.keys.items() if at == offset), (unknown[1],))
        kind = type_at(model, path[:-1]) if len(path) > 1 else None
        owner = kind.message if kind is not None and kind.message is not None else model
        known = list(owner.model_fields)
        text_of = f"{where}: {path_text(path)} is not known. Known: {', '.join(known)}."
        return ConfigValueError(text_of + did_you_mean(unknown[1], known)), offset
    path_or_none = found.path_of_value(offset)
    token = next((t for t, at in tokens(text[offset:])), "")
    if path_or_none is not None and token:
        wrong = _wrong_value(what, where, path_or_none, token, model)
        if wrong is not None:
            return wrong, offset
    return ConfigValueError(f"{where}: this is not valid protobuf text: {what}."), None


def _wrong_value(
    what: str, where: str, path: KeyPath, token: str, model: type[Message]
) -> ConfigError | None:
    """Tell what is wrong with a value, where protobuf says so in words that are known."""
    kind = type_at(model, path)
    is_value = f"{where}: {path_text(path)} is {token}"
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
    return None
