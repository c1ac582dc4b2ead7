"""Limits of fields, said once on the field and told in messages as `it lies in (0.5, 1]`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from calibrant.errors import ConfigTypeError, Problems, did_you_mean, together
from calibrant.text.schema import config_errors, value_text
from calibrant.text.yaml_text import Document, KeyPath, path_text

__all__ = ["Section", "interval", "one_of", "read_section", "unique", "without_null"]

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


def without_null(document: Document, problems: Problems) -> Document:
    """Return a document without null, which no key of the vendors' files takes; each one is a problem."""

    def said(content: Any, path: KeyPath) -> bool:
        if content is None:
            what = path_text(path) or "the document"
            text = f"{document.where(path)}: {what} is null; leave the key out instead."
            problems.add(ConfigTypeError(text))
        return content is not None

    def walk(content: Any, path: KeyPath) -> Any:
        if isinstance(content, Mapping):
            kept = {k: v for k, v in content.items() if said(v, (*path, k))}
            return {k: walk(v, (*path, k)) for k, v in kept.items()}
        if isinstance(content, list):
            for i, value in enumerate(content):
                said(value, (*path, i))
            return [walk(v, (*path, i)) for i, v in enumerate(content)]
        return content

    content = walk(document.content, ()) if said(document.content, ()) else {}
    return replace(document, content=content)


def read_section(model: type[M], document: Document, at: KeyPath = (), *, layer: str = "") -> M:
    """Check one section of a document.

    Args:
        model: Its schema.
        document: The document.
        at: Where the section stands.
        layer: Layer whose parameters these are; the message ends with its name.

    Raises:
        ConfigValueError: Keys or values that are not allowed; all of them.
        ConfigTypeError: The first of these is a value of the wrong type.
    """
    content = document.content
    for key in at:
        content = content[key]
    end = f" Found in layer {layer}" if layer else ""
    if not isinstance(content, dict):
        what = path_text(at) or "the document"
        raise ConfigTypeError(
            f"{document.where(at)}: {what} is {value_text(content)}; it is a mapping.{end}"
        )
    try:
        return model.model_validate(content)
    except ValidationError as e:
        found = config_errors(e, model, document, at)
        raise together([type(error)(f"{error}{end}") for error in found]) from e
