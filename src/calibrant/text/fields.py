"""Limits of fields, said once on the field and told in messages as `it lies in (0.5, 1]`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from calibrant.errors import ConfigTypeError, did_you_mean
from calibrant.text.schema import config_error, value_text
from calibrant.text.yaml_text import Document, KeyPath, path_text

__all__ = ["Section", "interval", "no_null", "one_of", "read_section", "unique"]

_INTERVAL = re.compile(r"([\[(])(\S+), (\S+)([\])])")

M = TypeVar("M", bound=BaseModel)


class Section(BaseModel):
    """One JSON object: no unknown keys, and true is no number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def one_of(*allowed: Any) -> AfterValidator:
    """Allow some values.

    Example:
        >>> one_of(8, 16).func(8)
        8
    """

    def check(value: Any) -> Any:
        if value not in allowed:
            names = ", ".join(map(str, allowed[:-1])) + f" or {allowed[-1]}" * (len(allowed) > 1)
            near = did_you_mean(value, allowed).strip() if isinstance(value, str) else ""
            text = f"it is {names or allowed[0]}"
            raise ValueError(f"{text}. {near}" if near else text)
        return value

    return AfterValidator(check)


def interval(text: str) -> AfterValidator:
    """Allow an interval, written as in mathematics.

    Example:
        >>> interval("(0.5, 1]").func(1.0)
        1.0
    """
    found = _INTERVAL.fullmatch(text)
    assert found is not None, text
    low, high = float(found[2]), float(found[3])

    def check(value: float) -> float:
        above = value >= low if found[1] == "[" else value > low
        below = value <= high if found[4] == "]" else value < high
        if above and below:
            return value
        if high == math.inf:
            at_least = (
                f"it is {found[2]} or more" if found[1] == "[" else f"it is above {found[2]}"
            )
            raise ValueError(at_least)
        if low == -math.inf:
            at_most = f"it is {found[3]} or less" if found[4] == "]" else f"it is below {found[3]}"
            raise ValueError(at_most)
        raise ValueError(f"it lies in {text}")

    return AfterValidator(check)


def unique(values: list[str]) -> list[str]:
    """Refuse a name that stands twice in a list.

    Raises:
        ValueError: One does; the message names it.
    """
    twice = next((v for i, v in enumerate(values) if v in values[:i]), None)
    if twice is not None:
        raise ValueError(f"'{twice}' stands twice; a name stands once")
    return values


def no_null(document: Document) -> None:
    """Refuse null, which no key of the vendors' files takes.

    Raises:
        ConfigTypeError: There is one.
    """

    def walk(content: Any, path: KeyPath) -> None:
        if content is None:
            raise ConfigTypeError(
                f"{document.where(path)}: {path_text(path) or 'the document'} is null; leave the key "
                "out instead."
            )
        if isinstance(content, Mapping):
            for key, value in content.items():
                walk(value, (*path, key))
        if isinstance(content, list):
            for index, value in enumerate(content):
                walk(value, (*path, index))

    walk(document.content, ())


def read_section(model: type[M], document: Document, at: KeyPath = (), *, layer: str = "") -> M:
    """Check one section of a document.

    Args:
        model: Its schema.
        document: The document.
        at: Where the section stands.
        layer: Layer whose parameters these are; the message ends with its name (ascend.md 11).

    Raises:
        ConfigValueError: A key or value that is not allowed.
        ConfigTypeError: A value of the wrong type.
    """
    content = document.content
    for key in at:
        content = content[key]
    if not isinstance(content, dict):
        raise ConfigTypeError(
            f"{document.where(at)}: {path_text(at) or 'the document'} is {value_text(content)}; it is a mapping."
            + (f" Found in layer {layer}" if layer else "")
        )
    try:
        return model.model_validate(content)
    except ValidationError as e:
        error = config_error(e, model, document, at)
        if not layer:
            raise error from e
        raise type(error)(f"{error} Found in layer {layer}") from e
