"""What was measured, line by line: written as it comes, and read by a run that goes on where another one ended.

A line is one JSON object, `{"key": …, "layer": …, "feed": …, "sums": …}`. Its key is a digest of all that the figures depend
on: the model, the samples, what the layer reads, and how outputs are compared. So a line is used again exactly where it
would come out the same. A last line that was cut off by the end of the process is measured again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from calibrant.analysis.alone.jury import Sums
from calibrant.errors import OutputError

__all__ = ["JOURNAL_FILE", "Journal", "content_key"]

JOURNAL_FILE = "sensitivity.jsonl"


class Journal:
    """Figures by key, kept in a file where there is one.

    Args:
        folder: Where the file is; None keeps nothing.
        file: Its name.
    """

    def __init__(self, folder: str | Path | None = None, file: str = JOURNAL_FILE) -> None:
        """Read what is there.

        Raises:
            OutputError: The file cannot be read or written.
        """
        self.path = Path(folder) / file if folder is not None else None
        self._known: dict[str, Sums] = {}
        self._file: TextIO | None = None
        self._earlier: frozenset[str] = frozenset()
        self.reused = 0
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
            for line in text.splitlines():
                self._take(line)
            self._earlier = frozenset(self._known)
            self._file = self.path.open("a", encoding="utf-8")
            if text and not text.endswith("\n"):
                self._file.write("\n")
        except OSError as e:
            raise OutputError(f"'{self.path}' cannot be used: {e.strerror}.") from e

    def _take(self, line: str) -> None:
        try:
            entry = json.loads(line)
            sums = {p: {k: float(v) for k, v in s.items()} for p, s in entry["sums"].items()}
            self._known[str(entry["key"])] = sums
        except (ValueError, KeyError, TypeError, AttributeError):
            return  # cut off, or no line of ours: it is measured again

    def get(self, key: str) -> Sums | None:
        """Return the figures of a key, or None."""
        return self._known.get(key)

    def has(self, key: str) -> bool:
        """Whether there are figures of a key; those of an earlier run are counted."""
        self.reused += key in self._earlier
        return key in self._known

    def put(self, key: str, layer: str, feed: int, sums: Sums) -> None:
        """Keep figures, and write them at once.

        Raises:
            OutputError: They cannot be written.
        """
        self._known[key] = sums
        if self._file is None:
            return
        plain = {
            p: {k: v if np.isfinite(v) else str(v) for k, v in s.items()} for p, s in sums.items()
        }
        line = {"key": key, "layer": layer, "feed": feed, "sums": plain}
        try:
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as e:
            raise OutputError(f"'{self.path}' cannot be written: {e.strerror}.") from e

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def content_key(texts: Iterable[str], arrays: Mapping[Any, npt.NDArray[Any]]) -> str:
    """Return a digest of texts and arrays."""
    found = hashlib.sha256(repr(tuple(texts)).encode())
    for name, x in arrays.items():
        found.update(repr((name, x.dtype.str, x.shape)).encode())
        found.update(np.ascontiguousarray(x).tobytes())
    return found.hexdigest()
