"""Raw `.bin` files: bare little-endian numbers, or a 20-byte header and float32 numbers.

    headed:  int32 magic 510 · int32 count · int32 channels · int32 height · int32 width · float32 …
    bare:    the samples one after another, in the input's type (or `source_dtype`) and shape

Source: docs/reference/ascend-configurations.md, BINARY file (the byte order of the header is our reading).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from calibrant.data.batch import AnyArray, InputInfo
from calibrant.data.sources.columns import SampleFile
from calibrant.errors import DataError

__all__ = ["binary_file"]

MAGIC = 510
HEADER_BYTES = 20


def binary_file(
    path: Path,
    info: InputInfo,
    *,
    name: str,
    dtype: np.dtype[Any],
    sample_shape: tuple[int, ...] | None,
) -> SampleFile:
    """Find out how many samples a `.bin` file holds, from its header or its size.

    Args:
        path: The file.
        info: The input it is for.
        name: Its name for messages.
        dtype: Type of the numbers in a bare file.
        sample_shape: Shape of one sample in a bare file; None when the model leaves it open.

    Raises:
        DataError: The size fits neither form.
    """
    size = path.stat().st_size
    head = np.fromfile(path, "<i4", count=5)
    if len(head) == 5 and head[0] == MAGIC:
        count, *shape = (int(v) for v in head[1:])
        if min(count, *shape) > 0 and size == HEADER_BYTES + 4 * count * int(np.prod(shape)):
            sample = tuple(shape)
            # A network input of lower rank ((N, features)) is stored with ones behind: keep its shape.
            if sample_shape is not None and np.prod(sample_shape) == np.prod(sample):
                sample = sample_shape
            return SampleFile(
                name, count, lambda: _read(path, "<f4", HEADER_BYTES, (count, *sample))
            )
    if sample_shape is None:
        raise DataError(
            f"{name} is a raw file, and input '{info}' leaves dimensions open, so the shape of its "
            "samples is unknown; store .npy files instead."
        )
    sample_bytes = int(np.prod(sample_shape)) * dtype.itemsize
    if size == 0 or size % sample_bytes:
        raise DataError(
            f"{name} has {size} bytes, which is no multiple of the {sample_bytes} bytes of one sample "
            f"({dtype} {sample_shape}), nor a file with the 20-byte header (magic {MAGIC}) of that many "
            f"numbers; input '{info}'."
        )
    count, little = size // sample_bytes, dtype.newbyteorder("<").str
    return SampleFile(name, count, lambda: _read(path, little, 0, (count, *sample_shape)))


def _read(path: Path, dtype: str, offset: int, shape: tuple[int, ...]) -> AnyArray:
    try:
        return np.fromfile(path, dtype, offset=offset).reshape(shape)
    except (OSError, ValueError) as e:
        raise DataError(f"{path} cannot be read: {e}.") from e
