"""Arrays of a `.npz` file that are too large to keep: decompressed as they are asked for."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from calibrant.data.batch import AnyArray
from calibrant.errors import DataError

__all__ = ["MemberColumn", "npy_header"]


class MemberColumn:
    """Samples of a `.npz` member too large to keep, decompressed as they are asked for.

    Reading on from where the last read ended costs nothing extra; going back starts the member over.

    Args:
        path: The `.npz` file.
        member: Name inside the archive, with `.npy`.

    Raises:
        DataError: The member is no array that can be read in order.
    """

    def __init__(self, path: Path, member: str) -> None:
        """Open the member and read its header."""
        self._path, self._member = path, member
        self._stream, self.shape, self.dtype = self._open()
        self._next = 0
        self._sample_bytes = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    @property
    def samples(self) -> int:
        """Length of axis 0."""
        return self.shape[0]

    @property
    def uniform(self) -> bool:
        """Always: it is one array."""
        return True

    def read(self, start: int, stop: int) -> AnyArray:
        """Decompress up to `stop` and return the last `stop - start` samples."""
        stop = min(stop, self.samples)
        if start < self._next:
            self._stream.close()
            self._stream, self._next = self._open()[0], 0
        try:
            for _ in range(start - self._next):
                self._stream.read(self._sample_bytes)
            data = self._stream.read((stop - start) * self._sample_bytes)
        except Exception as e:  # zipfile and zlib have their own for a damaged file
            raise DataError(
                f"{self._path}: '{self._member}' is damaged near sample {start}: {e}."
            ) from e
        if len(data) != (stop - start) * self._sample_bytes:
            raise DataError(f"{self._path}: '{self._member}' ends before sample {stop}.")
        self._next = stop
        return np.frombuffer(data, self.dtype).reshape(stop - start, *self.shape[1:])

    def file(self, index: int) -> str:
        """Return nothing: the source has the name."""
        return ""

    def stored(self, index: int) -> tuple[int, ...]:
        """Return the shape of the member."""
        return self.shape

    def _open(self) -> tuple[IO[bytes], tuple[int, ...], np.dtype[Any]]:
        archive = zipfile.ZipFile(self._path)
        stream = archive.open(self._member)
        shape, fortran, dtype = npy_header(stream)
        if fortran or not shape:
            raise DataError(
                f"{self._path}: '{self._member}' is not stored sample by sample (C order)."
            )
        return stream, shape, dtype


def npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read shape, Fortran order and type from the head of a `.npy` stream.

    Raises:
        ValueError: It is no `.npy` stream, or one of Python objects.
    """
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    return shape, fortran, dtype
