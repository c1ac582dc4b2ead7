"""Labels beside the samples of a folder: `labels.npy`, or `labels.txt` and `labels.csv` with one a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from calibrant.data.batch import AnyArray
from calibrant.data.sources.arrays import load_npy
from calibrant.data.sources.columns import ArrayColumn, Column
from calibrant.errors import DataError, did_you_mean

__all__ = ["LABELS", "add_labels"]

LABELS = ("labels.npy", "labels.txt", "labels.csv")


def add_labels(columns: dict[str, Column], folder: Path, used: Sequence[Path]) -> None:
    """Add a column `labels` where the folder has a file of them.

    Args:
        columns: Columns by name; gets one more.
        folder: The folder.
        used: The sample files, which `file label` lines name.

    Raises:
        DataError: Several files of labels, a line that is none, or a sample without one.
    """
    there = [folder / name for name in LABELS if (folder / name).exists()]
    if len(there) > 1:
        raise DataError(f"{folder} has {' and '.join(p.name for p in there)}; keep one.")
    for path in there:
        labels = load_npy(path) if path.suffix == ".npy" else _text_labels(path, used)
        columns["labels"] = ArrayColumn(np.atleast_1d(labels))


def _text_labels(path: Path, used: Sequence[Path]) -> AnyArray:
    try:
        lines = [
            ln.replace(",", " ").split() for ln in path.read_text(encoding="utf-8").splitlines()
        ]
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"{path} cannot be read: {e}.") from e
    numbered = [
        (i, words)
        for i, words in enumerate(lines, start=1)
        if words and not words[0].startswith("#")
    ]
    by_file: dict[str, int] = {}
    values = []
    for i, words in numbered:
        try:
            value = int(words[-1])
        except ValueError as e:
            raise DataError(f"{path}:{i}: '{words[-1]}' is no class number.") from e
        if len(words) > 2:
            raise DataError(
                f"{path}:{i}: a line is `label` or `file label`, got {len(words)} words."
            )
        values.append(value)
        if len(words) == 2:
            by_file[words[0]] = value
    if not by_file:
        return np.array(values, np.int64)
    for p in used:
        if p.name not in by_file:
            raise DataError(f"{path} has no line for '{p.name}'." + did_you_mean(p.name, by_file))
    return np.array([by_file[p.name] for p in used], np.int64)
