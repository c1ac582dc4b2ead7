"""Digests of data: equal for equal samples, so that what was measured on them can be taken again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from calibrant.data.imports import import_function, is_function_name
from calibrant.errors import DataError

__all__ = ["data_digest", "text_digest"]

#: Bytes of a file that are read at a time.
_CHUNK = 2**20


def text_digest(*texts: str) -> str:
    """Return the SHA-256 of texts, as 64 hexadecimal digits."""
    return hashlib.sha256(repr(texts).encode()).hexdigest()


def data_digest(data: Any) -> str:
    """Return the SHA-256 of data: of the content of files and arrays, wherever they are.

    Functions are called, and what they yield is read once. Of a stream that can be read once only its type counts.

    Args:
        data: What `open_data` takes.
    """
    found = hashlib.sha256()
    _add(found, data)
    return found.hexdigest()


def _add(found: Any, data: Any) -> None:
    if isinstance(data, str) and is_function_name(data) and not Path(data).exists():
        data = import_function(data, what="Data", error=DataError)
    if callable(data) and not hasattr(data, "__iter__") and not hasattr(data, "__getitem__"):
        data = data()
        if isinstance(data, Iterator):
            data = list(data)
    if isinstance(data, str | Path):
        _add_path(found, Path(data))
    elif isinstance(data, Mapping):
        found.update(b"{")
        for key in sorted(data, key=str):
            found.update(repr(str(key)).encode())
            _add(found, data[key])
        found.update(b"}")
    elif hasattr(data, "detach"):  # a tensor, maybe one with a gradient, or of a GPU
        _add(found, data.detach().cpu().numpy())
    elif isinstance(data, np.ndarray) or hasattr(data, "__array__"):
        x = np.asarray(data)
        found.update(repr((x.dtype.str, x.shape)).encode())
        found.update(repr(x.tolist()).encode() if x.dtype.hasobject else x.tobytes())
    elif isinstance(data, Iterable) and not isinstance(data, Iterator | bytes):
        found.update(b"[")
        for item in data:
            _add(found, item)
        found.update(b"]")
    elif isinstance(data, bool | int | float | bytes):
        found.update(f"{data!r};".encode())
    else:
        found.update(type(data).__qualname__.encode())


def _add_path(found: Any, path: Path) -> None:
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        found.update(repr(str(file.relative_to(path)) if path.is_dir() else "").encode())
        if (
            not file.is_file()
        ):  # a text; or a path that does not exist, as what reads the data says
            found.update(f"{str(file)!r};".encode())
            continue
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                found.update(chunk)
