"""Text files of the debug tool: tables as CSV, and values as JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from calibrant.save.whole import write_whole
from calibrant.text.json_out import json_of

__all__ = ["DEBUG_RESULT", "write_csv", "write_json"]

#: Where the vendor's tool writes to.
DEBUG_RESULT = "./debug_result/"


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Write a table."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(rows)
    return write_whole(path, text.getvalue(), folders=True)


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write values; numbers that JSON does not have become texts."""
    return write_whole(path, json_of(content) + "\n", folders=True)
