"""Which files of a folder are results of an earlier run.

`summary.json` lists the files that were written with it, under `files`. So the next run into the same folder can take
them out, whatever options they came from, and leaves alone what anybody else put there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

__all__ = ["SUMMARY", "files_of_before", "with_files"]

#: The file that lists the others.
SUMMARY = "summary.json"


def with_files(summary: dict[str, object], names: Iterable[str]) -> dict[str, object]:
    """Return a summary that lists the files of its run.

    Example:
        >>> with_files({"calibrant": "1.0"}, ["summary.json", "deploy.onnx"])
        {'calibrant': '1.0', 'files': ['deploy.onnx', 'summary.json']}
    """
    return {**summary, "files": sorted(names)}


def files_of_before(folder: Path) -> list[str]:
    """Return the names of the files that an earlier run left in a folder.

    Only plain names of files that are there count. A summary that is not ours, or that cannot be read, lists none.
    """
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    if not isinstance(summary, dict) or "calibrant" not in summary:
        return []
    names = summary.get("files")
    listed = [n for n in names if isinstance(n, str)] if isinstance(names, list) else []
    return [n for n in listed if n and Path(n).name == n and (folder / n).is_file()]
