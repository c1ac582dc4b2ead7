"""JSON as results are written in it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["json_of", "plain"]


def json_of(content: Mapping[str, Any]) -> str:
    """Return a JSON object, indented; numbers that JSON does not have become text.

    Example:
        >>> json_of({"sqnr_db": float("inf"), "shape": (1, 3)}).split()
        ['{', '"sqnr_db":', '"inf",', '"shape":', '[', '1,', '3', ']', '}']
    """
    return json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False)


def plain(value: Any) -> Any:
    """Return a value in which numbers that JSON does not have are texts."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value
