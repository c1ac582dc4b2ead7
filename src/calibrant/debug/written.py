"""Text files of the debug tool: tables as CSV, and values as JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from calibrant.errors import OutputError
from calibrant.text.json_out import json_of

__all__ = ["DEBUG_RESULT", "write_csv", "write_json", "write_text"]

#: Where the vendor's tool writes to.
DEBUG_RESULT = "./debug_result/"


def write_text(path: Path, text: str) -> Path:
    """Write a text; the folder is made if it is not there.

    Raises:
        OutputError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as e:
        raise OutputError(f"'{path}' cannot be written: {e.strerror or e}.") from e
    return path


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Write a table."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(rows)
    return write_text(path, text.getvalue())


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write values; numbers that JSON does not have become texts."""
    return write_text(path, json_of(content) + "\n")
