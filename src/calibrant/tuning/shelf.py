"""Statistics that stay on disk from one process to the next.

A file has the name of what it holds: the SHA-256 of the model that was observed, of the samples, and of how they are
read. So nothing is ever out of date, and several processes may share a folder: a file is written beside its place and
then moved there (`stats.store`). A file that is damaged counts as none, and is written again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from calibrant._version import __version__
from calibrant.data.digests import text_digest
from calibrant.errors import DataError, OutputError
from calibrant.stats import TensorStats
from calibrant.stats.store import load_statistics, save_statistics

__all__ = ["Shelf"]


class Shelf:
    """A folder of statistics.

    Args:
        folder: Where they lie; it is made where it does not exist.

    Raises:
        OutputError: The folder cannot be made.
    """

    def __init__(self, folder: str | Path) -> None:
        """Make the folder."""
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"The folder '{folder}' for statistics cannot be made: {error.strerror}."
            ) from error

    def take(self, *key: str) -> dict[str, TensorStats]:
        """Return the statistics of a key, by tensor; empty where there are none."""
        path = self._path(key)
        if not path.is_file():
            return {}
        try:
            return load_statistics(path, digest=path.stem)[0]
        except DataError:
            return {}

    def put(self, found: Mapping[str, TensorStats], *key: str) -> None:
        """Keep statistics under a key, in the place of what was there.

        Raises:
            OutputError: The file cannot be written.
        """
        path = self._path(key)
        save_statistics(path, found, digest=path.stem)

    def _path(self, key: tuple[str, ...]) -> Path:
        return self.folder / f"{text_digest(__version__, *key)}.npz"
