"""Inputs of a model that are the same in every use: a sampling rate, a flag, the size of an image."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from calibrant.errors import ConfigTypeError, ConfigValueError

__all__ = ["FixedInput", "FixedValue", "as_fixed", "fixed_by_text", "merged"]

#: A number, a flag or a text; tuples of them, one in the other, are arrays.
FixedValue: TypeAlias = "bool | int | float | str | tuple[FixedValue, ...]"


@dataclass(frozen=True, slots=True)
class FixedInput:
    """An input that becomes a constant.

    Args:
        name: Its name.
        value: What it always is; tuples of tuples stand for an array.
        origin: Where it stands, for messages.
    """

    name: str
    value: FixedValue
    origin: str = field(default="", compare=False)

    @property
    def plain(self) -> Any:
        """The value in lists, as files have it."""
        return _listed(self.value)

    def __str__(self) -> str:
        """Return it as the command line takes it."""
        return f"{self.name}={_in_words(self.value)}"


def as_fixed(values: Mapping[str, Any], origin: str = "") -> tuple[FixedInput, ...]:
    """Return inputs to fix, from plain values or arrays by name.

    Raises:
        ConfigTypeError: A value is no number, flag, text, list or array of these.

    Example:
        >>> as_fixed({"sr": 16000, "size": [224, 224]})[1].value
        (224, 224)
    """
    return tuple(FixedInput(name, _value(name, v, origin), origin) for name, v in values.items())


def fixed_by_text(said: Iterable[str], origin: str) -> tuple[FixedInput, ...]:
    """Return inputs to fix, from `NAME=VALUE`.

    A value is a number, `true` or `false`, a list (`[224, 224]`, or `224,224`), or a text.

    Raises:
        ConfigValueError: There is no `=`, no name or no value, or one input stands twice.
    """
    found: dict[str, FixedInput] = {}
    for text in said:
        name, equals, value = text.rpartition("=")
        if not equals or not name or not value.strip():
            raise ConfigValueError(
                f"{origin} is '{text}'; it is NAME=VALUE, such as sr=16000, training=false or size=[224,224]."
            )
        if name in found:
            raise ConfigValueError(f"{origin} names input '{name}' twice.")
        found[name] = FixedInput(name, _read(value.strip()), f"{origin} {text}")
    return tuple(found.values())


def merged(fixed: Iterable[FixedInput], over: Iterable[FixedInput]) -> tuple[FixedInput, ...]:
    """Return inputs to fix, with others that stand over those of the same name."""
    return tuple({f.name: f for f in (*fixed, *over)}.values())


def _value(name: str, value: Any, origin: str) -> FixedValue:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(_value(name, v, origin) for v in value)
    if isinstance(value, bool | int | float | str):
        return value
    raise ConfigTypeError(
        f"{origin or 'fix'}: input '{name}' is to be fixed to a {type(value).__name__}; a value is a number, true or "
        "false, a text, or a list of these."
    )


def _read(text: str) -> FixedValue:
    try:
        return _from_json(json.loads(text))
    except ValueError:
        pass
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if "," in text and not text.startswith(("[", "(", '"')):
        return tuple(_read(part.strip()) for part in text.split(",") if part.strip())
    if text.startswith("[") and text.endswith("]"):
        return _read(text[1:-1].strip() + ",")
    try:
        return float(text)
    except ValueError:
        return text


def _from_json(value: Any) -> FixedValue:
    if isinstance(value, list):
        return tuple(map(_from_json, value))
    if isinstance(value, bool | int | float | str):
        return value
    raise ValueError(value)


def _listed(value: FixedValue) -> Any:
    return [_listed(v) for v in value] if isinstance(value, tuple) else value


def _in_words(value: FixedValue) -> str:
    return value if isinstance(value, str) else json.dumps(_listed(value))
