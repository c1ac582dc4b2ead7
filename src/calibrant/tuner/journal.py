"""What a run has found out, in an SQLite file: a run that was ended goes on from there, and nothing is run twice.

A row is one answer, under a digest of all that it depends on: the model, the recipe, the data, how models are scored, and the
version of calibrant. So an answer is taken again exactly where it would come out the same. Each is written as soon as it is
known; a process that is killed loses the one that it was at.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from calibrant.analysis.alone.journal import Journal as Figures
from calibrant.analysis.alone.jury import Sums
from calibrant.errors import OutputError

__all__ = ["JOURNAL_FILE", "Journal", "LayerFigures"]

JOURNAL_FILE = "journal.sqlite"

_TABLE = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY,      -- digest of all that the answer depends on
    kind TEXT NOT NULL,        -- full, together, losses, layer
    question TEXT NOT NULL,    -- what was asked, for people
    answer TEXT NOT NULL,      -- JSON
    seconds REAL NOT NULL,     -- wall time
    at REAL NOT NULL           -- when, in seconds since 1970
)
"""


class Journal:
    """Answers by key.

    Args:
        folder: Where `journal.sqlite` is; None keeps answers in memory.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        """Open the file, or make it.

        Raises:
            OutputError: It cannot be read or written, or is no journal.
        """
        self.path = Path(folder) / JOURNAL_FILE if folder is not None else None
        self._written: set[str] = set()
        self._earlier: set[str] = set()
        with self._said():
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(":memory:" if self.path is None else self.path)
            self._base.execute(_TABLE)
            self._base.commit()

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as e:
            raise OutputError(f"The journal '{self.path}' cannot be used: {e}.") from e
        except OSError as e:
            raise OutputError(f"The journal '{self.path}' cannot be used: {e.strerror}.") from e

    def get(self, key: str) -> Any:
        """Return an answer, or None."""
        with self._said():
            row = self._base.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        if key not in self._written:
            self._earlier.add(key)
        return json.loads(row[0])

    @property
    def reused(self) -> int:
        """How many answers of an earlier run were of use to this one."""
        return len(self._earlier)

    def put(self, key: str, kind: str, question: str, answer: Any, seconds: float) -> None:
        """Keep an answer; it is on disk when this returns."""
        self._written.add(key)
        row = (key, kind, question, json.dumps(answer), seconds, time.time())
        with self._said(), self._base:
            self._base.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?)", row)

    def take(self, folder: str | Path) -> None:
        """Take the answers of another run, those that are here already left as they are.

        Args:
            folder: Where its `journal.sqlite` is.

        Raises:
            OutputError: There is none, or it cannot be read.
        """
        path = Path(folder) / JOURNAL_FILE
        if self.path is not None and path.absolute() == self.path.absolute():
            return
        if not path.is_file():
            raise OutputError(f"There is no journal '{path}' to take answers from.")
        other = sqlite3.connect(path.absolute().as_uri() + "?mode=ro", uri=True)
        try:
            rows = other.execute("SELECT * FROM answers").fetchall()
        except sqlite3.Error as e:
            raise OutputError(f"The journal '{path}' cannot be used: {e}.") from e
        finally:
            other.close()
        with self._said(), self._base:
            self._base.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?)", rows)

    def close(self) -> None:
        """Close the file."""
        self._base.close()


class LayerFigures(Figures):
    """Figures of single layers (`analysis.alone.measuring`), kept in the journal of a run."""

    def __init__(self, journal: Journal) -> None:
        """Keep figures in a journal."""
        super().__init__(None)
        self._journal = journal

    def get(self, key: str) -> Sums | None:
        """Return the figures of a key, or None."""
        found = super().get(key)
        if found is None and (answer := self._journal.get(key)) is not None:
            found = {p: {k: float(v) for k, v in sums.items()} for p, sums in answer.items()}
            super().put(key, "", 0, found)
        return found

    def has(self, key: str) -> bool:
        """Whether there are figures of a key."""
        return self.get(key) is not None

    def put(self, key: str, layer: str, feed: int, sums: Sums) -> None:
        """Keep figures, and write them at once."""
        super().put(key, layer, feed, sums)
        self._journal.put(key, "layer", f"{layer}, feed {feed}", sums, 0.0)
