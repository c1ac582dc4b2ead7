"""Statistics on disk: one .npz file, keyed by a digest of the model and the data they came from.

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
from calibrant.stats.channels import ChannelStats
from calibrant.stats.exact import ExactValues
from calibrant.stats.histogram import Histogram
from calibrant.stats.tensor import TensorStats

__all__ = ["load_statistics", "save_statistics"]

_VERSION = 1
_CHANNEL_PARTS = ("min", "max", "count", "sum_limbs", "square_limbs")


def save_statistics(path: Path | str, stats: Mapping[str, TensorStats], *, digest: str) -> None:
    """Write statistics by tensor name.

    Args:
        path: The file; an existing one is replaced once the new one is complete.
        stats: Statistics by tensor name.
        digest: Names the model and the data; `load_statistics` asks for the same.

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


def load_statistics(path: Path | str, *, digest: str) -> dict[str, TensorStats]:
    """Read statistics by tensor name.

    Args:
        path: A file that `save_statistics` wrote.
        digest: The digest that was given there.

    Raises:
        DataError: There is no such file, it is damaged or something else, or it belongs to another
            model or other data.
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
    if found != digest:
        raise DataError(
            f"'{path}' holds statistics of another model or other data (digest '{found}', wanted '{digest}')."
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
        return {entry["name"]: _get(entry, take) for entry in tensors}
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
        "channels": None,
    }
    if isinstance(stats.data, Histogram):
        entry |= {"kind": "histogram", "size": stats.data.keys.size}
        parts.setdefault("keys", []).append(stats.data.keys)
        parts.setdefault("counts", []).append(stats.data.counts)
        parts.setdefault("extremes", []).append(np.array([stats.data.min, stats.data.max]))
    else:
        entry |= {"kind": "exact", "size": stats.data.values.size}
        parts.setdefault("values", []).append(stats.data.values)
        parts.setdefault("counts", []).append(stats.data.counts)
    if stats.channels is not None:
        entry["channels"] = {"axis": stats.channels.axis, "size": stats.channels.min.size}
        for part in _CHANNEL_PARTS:
            parts.setdefault(f"channel_{part}", []).append(
                getattr(stats.channels, part).reshape(-1)
            )
    return entry


def _get(entry: dict[str, Any], take: Callable[[str, int], npt.NDArray[Any]]) -> TensorStats:
    """Read back what `_put` wrote, in the same order."""
    size = int(entry["size"])
    data: Histogram | ExactValues
    if entry["kind"] == "histogram":
        keys, counts = take("keys", size), take("counts", size)
        low, high = take("extremes", 2)
        data = Histogram(keys, counts, float(low), float(high))
    else:
        data = ExactValues(take("values", size), take("counts", size))
    channels = None
    if entry["channels"] is not None:
        count = int(entry["channels"]["size"])
        low, high, counts = (take(f"channel_{part}", count) for part in _CHANNEL_PARTS[:3])
        limbs = (
            take(f"channel_{part}", count * width).reshape(count, width)
            for part, width in (("sum_limbs", 32), ("square_limbs", 34))
        )
        channels = ChannelStats(int(entry["channels"]["axis"]), low, high, counts, *limbs)
    return TensorStats(data, bool(entry["keep"]), int(entry["nonfinite"]), channels)
