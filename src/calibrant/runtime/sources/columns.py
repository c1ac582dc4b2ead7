"""Samples of one array, read by index: from memory, from a `.npz` member, or from many files.

A column yields raw samples as they are stored; `data.py` prepares, casts and checks them. None of the
columns holds more than the arrays it was given, the samples asked for, and one file.
"""

from __future__ import annotations

import zipfile
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from calibrant.errors import DataError
from calibrant.runtime.batch import AnyArray

__all__ = [
    "ArrayColumn",
    "Column",
    "FileColumn",
    "MemberColumn",
    "PreparedColumn",
    "SampleFile",
    "Table",
    "npy_header",
]


class Column(Protocol):
    """Samples of one array."""

    @property
    def samples(self) -> int:
        """How many there are."""
        ...

    @property
    def uniform(self) -> bool:
        """Whether all samples have one shape, as far as that is known without reading them."""
        ...

    def read(self, start: int, stop: int) -> AnyArray:
        """Return samples start … stop-1, (stop-start, …), as they are stored."""
        ...

    def file(self, index: int) -> str:
        """Name the file of one sample; empty where one file holds them all."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ArrayColumn:
    """Samples of an array in memory or memory-mapped."""

    array: AnyArray

    @property
    def samples(self) -> int:
        """Length of axis 0."""
        return len(self.array)

    @property
    def uniform(self) -> bool:
        """Always: it is one array."""
        return True

    def read(self, start: int, stop: int) -> AnyArray:
        """Return a view."""
        return self.array[start:stop]

    def file(self, index: int) -> str:
        """Return nothing: the source has the name."""
        return ""


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


@dataclass(frozen=True, slots=True, eq=False)
class PreparedColumn:
    """Samples of another column, preprocessed as they are read."""

    column: Column
    prepare: Callable[[AnyArray], AnyArray]

    @property
    def samples(self) -> int:
        """As many as the other column has."""
        return self.column.samples

    @property
    def uniform(self) -> bool:
        """As the other column says."""
        return self.column.uniform

    def read(self, start: int, stop: int) -> AnyArray:
        """Read and preprocess."""
        return self.prepare(self.column.read(start, stop))

    def file(self, index: int) -> str:
        """Name the file as the other column does."""
        return self.column.file(index)


@dataclass(frozen=True, slots=True)
class SampleFile:
    """One file of a folder.

    Args:
        name: Its name for messages, relative to the folder.
        samples: How many samples it holds.
        load: Returns them, (samples, …); raises DataError.
        shape: Shape of one sample; None where only reading would tell.
    """

    name: str
    samples: int
    load: Callable[[], AnyArray]
    shape: tuple[int, ...] | None = None


class FileColumn:
    """Samples spread over files, in order. The file read last is kept."""

    def __init__(self, files: Sequence[SampleFile]) -> None:
        """Count the samples."""
        self._files = tuple(files)
        self._ends = list(accumulate(f.samples for f in self._files))
        self._last: tuple[int, AnyArray] | None = None

    @property
    def samples(self) -> int:
        """Samples of all files."""
        return self._ends[-1] if self._ends else 0

    @property
    def uniform(self) -> bool:
        """Whether the files whose shape is known agree."""
        return len({f.shape for f in self._files if f.shape is not None}) < 2

    def read(self, start: int, stop: int) -> AnyArray:
        """Load the files that hold these samples and return them as one array."""
        parts, names = [], []
        while start < min(stop, self.samples):
            k = bisect_right(self._ends, start)
            begin = self._ends[k] - self._files[k].samples
            part = self._load(k)[start - begin : stop - begin]
            parts.append(part)
            names.append(self._files[k].name)
            start += len(part)
        for part, name in zip(parts, names, strict=True):
            if part.shape[1:] != parts[0].shape[1:]:
                raise DataError(
                    f"{name} has samples of shape {part.shape[1:]}, and {names[0]} of "
                    f"{parts[0].shape[1:]}; samples of one batch have one shape. "
                    "Use batch size 1, or crop them alike."
                )
            if part.dtype != parts[0].dtype:
                raise DataError(
                    f"{name} holds {part.dtype}, and {names[0]} {parts[0].dtype}; use one type."
                )
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def file(self, index: int) -> str:
        """Name the file of one sample, and the sample in it where it holds several."""
        k = bisect_right(self._ends, index)
        if self._files[k].samples == 1:
            return self._files[k].name
        return f"sample {index - self._ends[k] + self._files[k].samples} of {self._files[k].name}"

    def _load(self, k: int) -> AnyArray:
        if self._last is None or self._last[0] != k:
            array = self._files[k].load()
            if len(array) != self._files[k].samples:
                raise DataError(f"{self._files[k].name} changed while it was read.")
            self._last = (k, array)
        return self._last[1]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Columns of one source, by name: the model's inputs, and extras such as `labels`.

    Args:
        columns: Column by name.
        source: File, folder or description, for messages.
        notes: What was left out, one sentence each.
    """

    columns: Mapping[str, Column]
    source: str
    notes: tuple[str, ...] = ()
