"""Values that travel from data to model: what an input accepts, and one batch of feeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["AnyArray", "Batch", "InputInfo", "shape_text"]

AnyArray = NDArray[Any]
Dim = int | str | None


def shape_text(shape: Sequence[Dim] | None) -> str:
    """Write a shape for a message; a dimension without a name is `?`, a shape that nobody knows `(...)`.

    Example:
        >>> shape_text(("N", 3, None)), shape_text(()), shape_text(None)
        ('(N, 3, ?)', '()', '(...)')
    """
    if shape is None:
        return "(...)"
    inner = ", ".join("?" if d is None else str(d) for d in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"


@dataclass(frozen=True, slots=True)
class InputInfo:
    """What a model's input accepts.

    Args:
        name: Name of the graph input.
        shape: Its dimensions: a number is fixed, a name or None is free. `()` is one number without dimensions,
            which is the same for every sample of a batch. None says that even their number is unknown.
        dtype: Type of its elements.
        by_feed: Arrays of data have an axis of feeds in front, which is the first of `shape` and which the model
            does not see (`data.axes`).
    """

    name: str
    shape: tuple[Dim, ...] | None
    dtype: np.dtype[Any]
    by_feed: bool = False

    @property
    def dims(self) -> tuple[Dim, ...]:
        """The dimensions; none where their number is unknown."""
        return self.shape or ()

    @property
    def is_number(self) -> bool:
        """Whether the input is one number without dimensions."""
        return self.shape == ()

    @property
    def own(self) -> InputInfo:
        """The input as the model sees it: without the axis of feeds."""
        if not self.by_feed:
            return self
        return InputInfo(self.name, None if self.shape is None else self.shape[1:], self.dtype)

    def __str__(self) -> str:
        """Return `x: float32 (N, 3, 32, 32)`."""
        return f"{self.name}: {self.dtype} {shape_text(self.shape)}"


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One feed of the model, and where it came from.

    Args:
        feeds: Array by model input, C-contiguous, in the model's types.
        extras: Arrays of the source that are no model input (`labels`), the same samples.
        first: Index of the first sample in the source, from 0.
        size: Samples in the batch.
        source: File, folder or description of the source.
        files: Name of each sample where the source keeps them apart (a folder); empty otherwise.
        shared: Names of feeds that are the same for every sample: numbers without dimensions.
        whole: The feeds share no axis of samples, so the batch is one sample and cannot be cut.
    """

    feeds: Mapping[str, AnyArray]
    extras: Mapping[str, AnyArray]
    first: int
    size: int
    source: str
    files: tuple[str, ...] = field(default=())
    shared: frozenset[str] = frozenset()
    whole: bool = False

    def part(self, start: int, stop: int) -> Batch:
        """Return samples `start` to `stop - 1` of this batch.

        Raises:
            ValueError: The batch cannot be cut.

        Example:
            >>> feeds = {"x": np.zeros((4, 8)), "rate": np.array(16000)}
            >>> part = Batch(feeds, {}, 0, 4, "the data", shared=frozenset({"rate"})).part(1, 3)
            >>> part.feeds["x"].shape, part.feeds["rate"].shape, part.first
            ((2, 8), (), 1)
        """
        stop = min(stop, self.size)
        if (start, stop) == (0, self.size):
            return self
        if self.whole:
            raise ValueError(f"{self} has no axis of samples.")
        feeds = {
            n: x if n in self.shared else np.ascontiguousarray(x[start:stop])
            for n, x in self.feeds.items()
        }
        return replace(
            self,
            feeds=feeds,
            extras={n: x[start:stop] for n, x in self.extras.items()},
            first=self.first + start,
            size=stop - start,
            files=self.files[start:stop],
        )

    def rows(self, indices: Sequence[int]) -> Batch:
        """Return some samples of this batch; its names of samples are then those of the first of them.

        Raises:
            ValueError: The batch cannot be cut.

        Example:
            >>> Batch({"x": np.arange(4)}, {}, 0, 4, "the data").rows([0, 3]).feeds["x"]
            array([0, 3])
        """
        chosen = list(indices)
        if chosen == list(range(chosen[0], chosen[-1] + 1)):
            return self.part(chosen[0], chosen[-1] + 1)
        if self.whole:
            raise ValueError(f"{self} has no axis of samples.")
        return replace(
            self,
            feeds={n: x if n in self.shared else x[chosen] for n, x in self.feeds.items()},
            extras={n: x[chosen] for n, x in self.extras.items()},
            first=self.first + chosen[0],
            size=len(chosen),
            files=tuple(self.files[i] for i in chosen) if self.files else (),
        )

    def sample(self, offset: int = 0) -> str:
        """Name a sample of this batch for a message.

        Example:
            >>> Batch({}, {}, first=16, size=8, source="calib.npz").sample(1)
            'sample 17 of calib.npz'
        """
        if self.files:
            return self.files[offset]
        return f"sample {self.first + offset} of {self.source}"

    def __str__(self) -> str:
        """Name all samples of the batch."""
        if self.size == 1:
            return self.sample()
        return f"samples {self.first} to {self.first + self.size - 1} of {self.source}"
