"""Options of algorithms: declared once, on the field, and read by validation, docs and tests.

The type of a field holds its limits (`percentile: Percent = 0.9999`), and a line for each field in the
`Args:` section of the class says what it does.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
)
from typing import get_type_hints as type_hints

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from calibrant.errors import ConfigTypeError, ConfigValueError, did_you_mean

__all__ = [
    "Bins",
    "Option",
    "Percent",
    "Positive",
    "Ratio",
    "build",
    "describe_options",
    "options",
]

#: Share of the values that stays in the range; Ascend's and Horizon's tools agree on the limits.
Percent = Annotated[float, Field(gt=0.5, le=1)]
#: Part of something.
Ratio = Annotated[float, Field(gt=0, lt=1)]
#: Above zero, and finite.
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
#: Number of bins of a divergence.
Bins = Annotated[int, Field(ge=16, le=1 << 20)]

#: Names by which the vendors' documents know an option.
_ALIASES = {
    "num_of_bins": "bins",
    "num_bins": "bins",
    "num_bin": "bins",
    "max_num_bins": "max_bins",
    "max_num_bin": "max_bins",
}

_CONFIG = ConfigDict(strict=True, extra="forbid")
T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def options(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass whose fields are checked: no unknown ones, no bool for a number."""
    return cast(type[T], pydantic_dataclass(frozen=True, config=_CONFIG)(cls))


@dataclass(frozen=True, slots=True)
class Option:
    """One option, for messages, documentation and recipes.

    Args:
        name: Name of the field.
        default: Its default.
        allowed: What is allowed, in words and intervals: `(0.5, 1]`.
        doc: What it does, one sentence or more.
    """

    name: str
    default: Any
    allowed: str
    doc: str


def describe_options(cls: type) -> list[Option]:
    """Return the options of a class that `options` decorated, in the order of its fields."""
    return list(_options_of(cls))


@cache
def _options_of(cls: type) -> tuple[Option, ...]:
    hints = type_hints(cls, include_extras=True)
    docs = _argument_docs(inspect.getdoc(cls) or "")
    return tuple(
        Option(f.name, _default(f.default), _allowed(hints[f.name]), docs.get(f.name, ""))
        for f in fields(cls)
    )


def build(cls: Callable[..., T], owner: str, values: Mapping[str, Any]) -> T:
    """Make an algorithm from options as they come from a recipe.

    Args:
        cls: Class that `options` decorated.
        owner: What the options belong to, for messages.
        values: Option name and value; a list counts as a tuple.

    Raises:
        ConfigValueError: An unknown option, or a value outside what is allowed.
        ConfigTypeError: A value of the wrong type.
    """
    known = {o.name: o for o in describe_options(cast(type, cls))}
    given: dict[str, Any] = {}
    for key, value in values.items():
        name = key if key in known else _ALIASES.get(key, key)
        if name not in known:
            has = f"Known: {', '.join(known)}." if known else "It has none."
            raise ConfigValueError(
                f"Unknown option '{key}' of {owner}. {has}" + did_you_mean(key, known)
            )
        given[name] = tuple(value) if isinstance(value, list) else value
    try:
        return cls(**given)
    except ValidationError as error:
        first = error.errors()[0]
        where = first["loc"][0] if first["loc"] else None
        if where is None:  # a check of two fields together
            raise ConfigValueError(
                f"{owner}: {first['msg'].removeprefix('Value error, ')}"
            ) from error
        option = known[str(where)]
        wrong_type = first["type"].endswith("_type") or first["type"] == "missing_argument"
        kind = ConfigTypeError if wrong_type else ConfigValueError
        raise kind(
            f"Option '{option.name}' of {owner} is {given[option.name]!r}; it is {option.allowed}."
        ) from error


def _default(value: Any) -> Any:
    return getattr(value, "default", value)


def _allowed(hint: Any) -> str:
    """Say in words what a type with limits allows."""
    if get_origin(hint) in (Union, UnionType):  # None stands for an option that was not given
        return _allowed(next(a for a in get_args(hint) if a is not NoneType))
    if get_origin(hint) is tuple:
        return f"({', '.join(_allowed(a) for a in get_args(hint))})"
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(repr, get_args(hint)))}"
    if get_origin(hint) is Annotated:
        base, *metadata = get_args(hint)
        limits = [m for info in metadata for m in getattr(info, "metadata", [info])]
        low = next((f"{o}{v}" for m in limits for o, v in _lower(m)), "(-inf")
        high = next((f"{v}{c}" for m in limits for c, v in _upper(m)), "inf)")
        return f"{_noun(base)} in {low}, {high}"
    return _noun(hint)


def _lower(limit: Any) -> list[tuple[str, Any]]:
    return [(o, getattr(limit, k)) for k, o in (("gt", "("), ("ge", "[")) if hasattr(limit, k)]


def _upper(limit: Any) -> list[tuple[str, Any]]:
    return [(c, getattr(limit, k)) for k, c in (("lt", ")"), ("le", "]")) if hasattr(limit, k)]


def _noun(hint: Any) -> str:
    return {float: "a number", int: "an integer", bool: "true or false", str: "a text"}[hint]


def _argument_docs(doc: str) -> dict[str, str]:
    """Read the `Args:` section of a Google docstring."""
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)*)", doc, flags=re.MULTILINE)
    if not section:
        return {}
    entries = re.findall(
        r"^    (\w+): ((?:.*\n?)(?:^ {5,}.*\n?)*)", section[1], flags=re.MULTILINE
    )
    return {name: " ".join(text.split()) for name, text in entries}
