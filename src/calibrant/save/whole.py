"""Write a text file whole or not at all."""

from __future__ import annotations

from pathlib import Path

from calibrant.errors import OutputError

__all__ = ["write_whole"]


def write_whole(path: Path, text: str, *, folders: bool = False) -> Path:
    """Write a text; what was in the file before stays until all of it is on disk.

    Args:
        path: The file.
        text: What it is to hold.
        folders: Make the folders around it where they are not there.

    Raises:
        OutputError: It cannot be written.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        if folders:
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as e:
        raise OutputError(f"'{path}' cannot be written: {e.strerror or e}.") from e
    return path
