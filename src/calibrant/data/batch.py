"""Values that travel from data to model: what an input accepts, and one batch of feeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["AnyArray", "Batch", "InputInfo", "shape_text"]

AnyArray = NDArray[Any]
Dim = int | str | None


def shape_text(shape: Sequence[Dim]) -> str:
    """Write a shape for a message; a dimension without a name is `?`.

    Example:
        >>> shape_text(("N", 3, None))
        '(N, 3, ?)'
    """
    inner = ", ".join("?" if d is None else str(d) for d in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"


@dataclass(frozen=True, slots=True)
class InputInfo:
    """What a model's input accepts.

    Args:
        name: Name of the graph input.
        shape: Its dimensions: a number is fixed, a name or None is free. An empty shape says nothing
            (ONNX Runtime reports it for a scalar and for an unknown rank alike).
        dtype: Type of its elements.
    """

    name: str
    shape: tuple[Dim, ...]
    dtype: np.dtype[Any]

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
    """

    feeds: Mapping[str, AnyArray]
    extras: Mapping[str, AnyArray]
    first: int
    size: int
    source: str
    files: tuple[str, ...] = field(default=())

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
