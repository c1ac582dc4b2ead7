"""Statistics on disk: one .npz file, with a digest of the model they came from.

The file holds a table of contents in JSON and a few long arrays, so thousands of tensors do not become
thousands of members. It is written beside its place and then moved there, so a reader never sees half.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calibrant.errors import DataError, OutputError
from calibrant.stats.exact import ExactValues
from calibrant.stats.histogram import BIN_SHIFT, Histogram, narrow
from calibrant.stats.per_channel import ChannelDistributions
from calibrant.stats.tensor import TensorStats

__all__ = ["load_statistics", "save_statistics"]

_VERSION = 2


def save_statistics(path: Path | str, stats: Mapping[str, TensorStats], *, digest: str) -> None:
    """Write statistics by tensor name.

    Args:
        path: The file; an existing one is replaced once the new one is complete.
        stats: Statistics by tensor name.
        digest: Names the model.

    Raises:
        OutputError: The file cannot be written; one that was there before still is.
    """
    path = Path(path)
    parts: dict[str, list[npt.NDArray[Any]]] = {}
    tensors = [_put(name, value, parts) for name, value in stats.items()]
    header = json.dumps({"version": _VERSION, "digest": digest, "tensors": tensors})
    arrays = {name: np.concatenate(pieces) for name, pieces in parts.items()}
    arrays["header"] = np.frombuffer(header.encode(), dtype=np.uint8)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise OutputError(
            f"Statistics cannot be written to '{path}': {error.strerror}."
        ) from error


def load_statistics(
    path: Path | str, *, digest: str | None = None
) -> tuple[dict[str, TensorStats], str]:
    """Read statistics by tensor name.

    Args:
        path: A file that `save_statistics` wrote.
        digest: The digest that it has to have; None takes any.

    Returns:
        The statistics, and their digest.

    Raises:
        DataError: There is no such file, it is damaged or something else, or it belongs to another model.
    """
    path = Path(path)
    try:
        # opened here: numpy leaves a damaged file open
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = dict(archive.items())
        header = json.loads(arrays.pop("header").tobytes())
        version, found, tensors = header["version"], header["digest"], header["tensors"]
    except FileNotFoundError as error:
        raise DataError(f"There is no statistics file '{path}'.") from error
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        EOFError,
        zipfile.BadZipFile,
    ) as error:
        raise DataError(f"'{path}' is not a statistics file, or is damaged: {error}.") from error
    if version != _VERSION:
        raise DataError(f"'{path}' has statistics of version {version!r}; this is {_VERSION}.")
    if digest is not None and found != digest:
        raise DataError(
            f"'{path}' holds statistics of another model (digest '{found}', wanted '{digest}')."
        )
    taken = dict.fromkeys(arrays, 0)

    def take(part: str, size: int) -> npt.NDArray[Any]:
        start = taken[part]
        taken[part] = start + size
        if taken[part] > arrays[part].size:
            raise ValueError(f"array '{part}' is too short")
        piece: npt.NDArray[Any] = arrays[part][start : start + size]
        return piece

    try:
        return {entry["name"]: _get(entry, take) for entry in tensors}, str(found)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"'{path}' is not a statistics file, or is damaged: {error}.") from error


def _put(
    name: str, stats: TensorStats, parts: dict[str, list[npt.NDArray[Any]]]
) -> dict[str, Any]:
    """Append the arrays of one tensor to the parts and return its entry in the table of contents."""
    entry: dict[str, Any] = {
        "name": name,
        "keep": stats.keep,
        "nonfinite": stats.nonfinite,
        **_put_data(stats.data, parts),
    }
    if stats.by_channel:
        entry["by_channel"] = [
            {"axis": d.axis, "data": [_put_data(each, parts, "distribution_") for each in d.data]}
            for d in stats.by_channel
        ]
    return entry


def _put_data(
    data: Histogram | ExactValues, parts: dict[str, list[npt.NDArray[Any]]], prefix: str = ""
) -> dict[str, Any]:
    """Append the arrays of one distribution to parts whose names begin with a prefix."""
    parts.setdefault(f"{prefix}counts", []).append(data.counts.astype(np.int64))
    if isinstance(data, ExactValues):
        parts.setdefault(f"{prefix}values", []).append(data.values)
        return {"kind": "exact", "size": data.values.size}
    parts.setdefault(f"{prefix}keys", []).append(data.keys)
    parts.setdefault(f"{prefix}extremes", []).append(np.array([data.min, data.max]))
    return {"kind": "histogram", "size": data.keys.size, "shift": data.shift}


def _get_data(
    entry: dict[str, Any], take: Callable[[str, int], npt.NDArray[Any]], prefix: str = ""
) -> Histogram | ExactValues:
    """Read back what `_put_data` wrote."""
    size = int(entry["size"])
    if entry["kind"] != "histogram":
        return ExactValues(take(f"{prefix}values", size), narrow(take(f"{prefix}counts", size)))
    keys, counts = take(f"{prefix}keys", size), narrow(take(f"{prefix}counts", size))
    low, high = take(f"{prefix}extremes", 2)
    shift = int(entry.get("shift", BIN_SHIFT))
    return Histogram(keys, counts, float(low), float(high), shift)


def _get(entry: dict[str, Any], take: Callable[[str, int], npt.NDArray[Any]]) -> TensorStats:
    """Read back what `_put` wrote, in the same order."""
    data = _get_data(entry, take)
    by_channel = tuple(
        ChannelDistributions(
            int(found["axis"]),
            tuple(_get_data(each, take, "distribution_") for each in found["data"]),
        )
        for found in entry.get("by_channel", ())
    )
    return TensorStats(data, bool(entry["keep"]), int(entry["nonfinite"]), by_channel)
