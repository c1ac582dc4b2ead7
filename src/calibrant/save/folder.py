"""Put several files into a folder together: all of them, or none."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from calibrant.errors import OutputError

__all__ = ["written_together"]


@contextmanager
def written_together(folder: Path, *, instead_of: Collection[str] = ()) -> Iterator[Path]:
    """Give an empty folder to write into; its files are moved into `folder` at the end.

    When writing or moving fails, the files that were in `folder` are there as before.

    Args:
        folder: Where the files belong; it is made if it is not there.
        instead_of: Names that are removed from `folder` if they are not written again.

    Raises:
        OutputError: The folder cannot be made, or a file cannot be written.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".calibrant-", dir=folder))
    except OSError as e:
        raise OutputError(f"Cannot write into the folder '{folder}': {e.strerror or e}.") from e
    try:
        new = temporary / "new"
        new.mkdir()
        yield new
        _exchange(new, folder, temporary, instead_of)
    except OSError as e:
        raise OutputError(
            f"Cannot write the results into '{folder}': {e.strerror or e}. What was there is unchanged."
        ) from e
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if made and not any(folder.iterdir()):
            folder.rmdir()


def _exchange(new: Path, folder: Path, temporary: Path, instead_of: Collection[str]) -> None:
    """Move the new files in; on any failure, bring the old ones back."""
    old = temporary / "old"
    old.mkdir()
    names = sorted(p.name for p in new.iterdir())
    obsolete = [n for n in instead_of if n not in names and (folder / n).exists()]
    for name in (*names, *obsolete):
        if (folder / name).exists():
            _keep(folder / name, old / name)
    try:
        for name in names:
            (new / name).replace(folder / name)
        for name in obsolete:
            (folder / name).unlink()
    except BaseException:
        for name in names:
            if (old / name).exists():
                (old / name).replace(folder / name)
            elif not (new / name).exists():
                (folder / name).unlink(missing_ok=True)
        for name in obsolete:
            if not (folder / name).exists():
                (old / name).replace(folder / name)
        raise


def _keep(path: Path, copy: Path) -> None:
    """Keep a file under a second name, without copying its bytes where the disk can do that."""
    try:
        os.link(path, copy)
    except OSError:
        shutil.copy2(path, copy)
