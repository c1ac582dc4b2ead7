"""Samples of one array, read by index: from memory, or from many files.

A column yields raw samples as they are stored; `data.py` prepares, casts and checks them. None of the
columns holds more than the arrays it was given, the samples asked for, and one file.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import numpy as np

from calibrant.data.batch import AnyArray, InputInfo
from calibrant.data.check import as_samples, has_samples
from calibrant.errors import DataError

__all__ = [
    "ArrayColumn",
    "Column",
    "FileColumn",
    "PreparedColumn",
    "RepeatedColumn",
    "SampleFile",
    "Table",
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

    def stored(self, index: int) -> tuple[int, ...] | None:
        """Return the shape of the array that holds one sample, as it is stored; None where nobody has it so."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ArrayColumn:
    """Samples of an array in memory or memory-mapped.

    Args:
        array: (samples, …).
        shape: The shape that it had before it got an axis of samples; None where it had one.
    """

    array: AnyArray
    shape: tuple[int, ...] | None = None

    @classmethod
    def of(cls, array: AnyArray, info: InputInfo) -> ArrayColumn:
        """Give an array an axis of samples where it has none."""
        return cls(as_samples(array, info), array.shape)

    @property
    def samples(self) -> int:
        """Length of axis 0; an array without dimensions counts as one."""
        return len(self.array) if self.array.ndim else 1

    @property
    def uniform(self) -> bool:
        """Always: it is one array."""
        return True

    def read(self, start: int, stop: int) -> AnyArray:
        """Return a view."""
        return self.array[start:stop] if self.array.ndim else self.array

    def file(self, index: int) -> str:
        """Return nothing: the source has the name."""
        return ""

    def stored(self, index: int) -> tuple[int, ...]:
        """Return the shape that was given."""
        return self.array.shape if self.shape is None else self.shape


@dataclass(frozen=True, slots=True, eq=False)
class RepeatedColumn:
    """The one sample of another column, for each sample.

    Args:
        column: Has one sample.
        samples: How many there are to be.
    """

    column: Column
    samples: int

    @property
    def uniform(self) -> bool:
        """Always: it is one sample."""
        return True

    def read(self, start: int, stop: int) -> AnyArray:
        """Return it again and again."""
        one = self.column.read(0, 1)
        return np.broadcast_to(one, (stop - start, *one.shape[1:]))

    def file(self, index: int) -> str:
        """Name its file."""
        return self.column.file(0)

    def stored(self, index: int) -> tuple[int, ...] | None:
        """Return its shape."""
        return self.column.stored(0)


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

    def stored(self, index: int) -> None:
        """Return nothing: what is stored has another shape."""


@dataclass(frozen=True, slots=True)
class SampleFile:
    """One file of a folder.

    Args:
        name: Its name for messages, relative to the folder.
        samples: How many samples it holds.
        load: Returns them, (samples, …); raises DataError.
        shape: Shape of one sample; None where only reading would tell.
        stored: Shape of the array in the file; None where it is as `load` returns it.
    """

    name: str
    samples: int
    load: Callable[[], AnyArray]
    shape: tuple[int, ...] | None = None
    stored: tuple[int, ...] | None = None

    @classmethod
    def of(
        cls,
        name: str,
        load: Callable[[], AnyArray],
        stored: tuple[int, ...],
        info: InputInfo | None,
    ) -> SampleFile:
        """Count the samples of an array, which is given an axis of samples where it has none.

        Args:
            name: Name of its file.
            load: Returns the array as it is stored.
            stored: Its shape.
            info: The input it is for; None for an array that is none.
        """
        many = bool(stored) and (info is None or has_samples(len(stored), info))
        samples, shape = (stored[0], stored[1:]) if many else (1, stored)

        def read() -> AnyArray:
            return np.atleast_1d(load()) if info is None else as_samples(load(), info)

        return cls(name, samples, read, shape, stored)


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

    def stored(self, index: int) -> tuple[int, ...]:
        """Return the shape of the array in the file of one sample."""
        k = bisect_right(self._ends, index)
        found = self._files[k].stored
        return found if found is not None else self._load(k).shape

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
        by_feed: Each sample is a feed, its inputs without a common axis of samples.
    """

    columns: Mapping[str, Column]
    source: str
    notes: tuple[str, ...] = ()
    by_feed: bool = False
