"""Data as the checks look at it: the first samples of each input, as one array."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from calibrant.data.batch import Batch

__all__ = ["SAMPLES", "Sketch", "channel_axis", "sketch"]

Array = npt.NDArray[Any]

#: Samples, and bytes of them, that are looked at.
SAMPLES, BYTES = 64, 256 * 2**20

#: Lengths of an axis that colours lie on.
_COLOURS = (1, 3, 4)


@dataclass(frozen=True, slots=True, eq=False)
class Sketch:
    """Samples of one input.

    Args:
        name: The input.
        samples: One array a sample, all of what the input takes of it.
    """

    name: str
    samples: tuple[Array, ...]

    @property
    def is_float(self) -> bool:
        """Whether it holds floating point numbers."""
        return self.samples[0].dtype.kind == "f"

    @property
    def same_shapes(self) -> bool:
        """Whether all samples have one shape."""
        return len({x.shape for x in self.samples}) == 1

    def by_channel(self) -> tuple[Array, Array] | None:
        """Return means and standard deviations (samples, channels) of each sample; None without channels."""
        if not self.same_shapes:
            return None
        axis = channel_axis(self.samples[0].shape)
        x = np.stack(self.samples).astype(np.float64)
        if axis is None:
            x = x.reshape(len(x), 1, -1)
        else:
            x = np.moveaxis(x, axis + 1, 1).reshape(len(x), x.shape[axis + 1], -1)
        return x.mean(axis=2), x.std(axis=2)


def channel_axis(shape: tuple[int, ...]) -> int | None:
    """Return the axis of the colours of one image, (C, H, W) or (H, W, C); None for what is no image."""
    if len(shape) != 3:
        return None
    if shape[0] in _COLOURS:
        return 0
    return 2 if shape[2] in _COLOURS else None


def sketch(batches: Iterable[Batch]) -> list[Sketch]:
    """Return the first samples of every input."""
    found: dict[str, list[Array]] = {}
    count = size = 0
    for batch in batches:
        for name, value in batch.feeds.items():
            x = np.asarray(value)
            rows = x.ndim > 0 and batch.size > 1 and x.shape[0] == batch.size
            each = list(x) if rows else [x[0] if x.ndim > 1 and x.shape[0] == 1 else x]
            found.setdefault(name, []).extend(each[: SAMPLES - count])
            size += x.nbytes
        count += batch.size
        if count >= SAMPLES or size > BYTES:
            break
    return [Sketch(n, tuple(x)) for n, x in found.items() if x]
