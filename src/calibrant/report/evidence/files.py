"""Values as JSON files, and back: a file is checked against the type that it is said to hold."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from calibrant.errors import ConfigValueError
from calibrant.text.json_out import plain

__all__ = ["read_json", "read_value", "text_of"]

T = TypeVar("T")


def text_of(value: Any) -> str:
    """Return a dataclass as JSON on one line; numbers that JSON does not have become text."""
    text = json.dumps(plain(asdict(value)), allow_nan=False, ensure_ascii=False)
    return text + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file.

    Raises:
        ConfigValueError: It cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigValueError(f"'{path}' cannot be read: {e.strerror}.") from e
    except (ValueError, RecursionError) as e:
        raise ConfigValueError(f"'{path}' is no JSON: {e}.") from e
    if not isinstance(content, dict):
        raise ConfigValueError(f"'{path}' holds no JSON object.")
    return content


def read_value(path: Path, kind: type[T]) -> T:
    """Return the value of a file that `text_of` wrote.

    Raises:
        ConfigValueError: It cannot be read, or holds something else.
    """
    try:
        return TypeAdapter(kind).validate_python(read_json(path))
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigValueError(f"'{path}': {where}: {first['msg']}.") from e
