"""Known steps of preparing images, and the one that lies between the samples seen and those a grid was chosen from.

A step is x -> (x * scale - mean) / std. Where a grid was chosen from data that went through a step once too often, or without it,
its ends are those that the step, or its inverse, makes of the least and the largest value of right samples. Told is a step only
where both ends fit, and where the samples themselves are far from fitting:

    |low - low'| and |high - high'|  <=  0.1 (high' - low')        low', high': the ends the step makes, 0 between them

Where the mean of the step is small beside the width, or the ends of the grid are as far from 0 as each other, a factor is all there
is, which other data of the same kind may differ by. It is told where it is that of 8-bit pixels, or above 3 for colours, which have
natural ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["KNOWN", "Preparation", "between"]

Array = npt.NDArray[Any]

#: Ends fit where they differ by such a share of the width; samples are far from fitting where they differ by so many.
_FITS, _FAR = 0.1, 0.4

#: Factors that no two sets of right samples differ by, and no two sets of right photographs.
_PIXELS, _BRIGHT = 100.0, 3.0

#: Axes that colours lie on have one of these lengths; colours have natural ends.
_CHANNELS, _COLOURS = (1, 3, 4), (3, 4)

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, slots=True)
class Preparation:
    """A step x -> (x * scale - mean) / std.

    Args:
        name: What it is called.
        scale: Factor.
        mean: Subtracted, one or one a channel.
        std: Divided by.
    """

    name: str
    scale: float
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def forward(self, mean: Array, std: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation of each channel behind the step, from those in front of it."""
        m, s = np.array(self.mean), np.array(self.std)
        return (mean * self.scale - m) / s, std * self.scale / s

    def backward(self, mean: Array, std: Array) -> tuple[Array, Array]:
        """Return them in front of the step, from those behind it."""
        m, s = np.array(self.mean), np.array(self.std)
        return (mean * s + m) / self.scale, std * s / self.scale

    def lines(self, *, forward: bool) -> str:
        """Return lines of a preprocessing file that do it, or undo it."""
        scale, mean, std = self.scale, self.mean, self.std
        if not forward:  # x * s / k + m / k
            scale, mean, std = (
                1.0,
                tuple(-m / s for m, s in zip(mean, std, strict=True)),
                tuple(self.scale / s for s in std),
            )
        if len(std) == 1 and not any(mean):
            scale, std = scale / std[0], (1.0,)
        found = [f"scale: {scale:.6g}"] if scale != 1.0 else []
        if any(mean):
            found.append(f"mean: {_listed(mean)}")
        if any(s != 1.0 for s in std):
            found.append(f"std: {_listed(std)}")
        return "\n".join(found)


#: Steps that are known, the plainest first.
KNOWN = (
    Preparation("scaling of 0 to 255 to 0 to 1", 1 / 255),
    Preparation("scaling of 0 to 255 to -1 to 1", 1 / 127.5, (1.0,)),
    Preparation("scaling of 0 to 1 to -1 to 1", 1.0, (0.5,), (0.5,)),
    Preparation("normalization with the mean and std of ImageNet", 1.0, *_IMAGENET),
    Preparation(
        "scaling by 1/255 and normalization with the mean and std of ImageNet", 1 / 255, *_IMAGENET
    ),
)


def between(
    seen: tuple[float, float], grid: tuple[float, float], shape: tuple[int, ...]
) -> tuple[Preparation, bool] | None:
    """Return the step that lies between samples and those a grid was chosen from.

    Args:
        seen: Least and largest value of the samples.
        grid: Ends of the grid.
        shape: Of one sample: (C, H, W) or (H, W, C) for an image, with or without the axis of samples; others have no known steps.

    Returns:
        The step, and whether the samples of the grid went through it once too often; else it is missing there. None where no
        step fits, or none is needed.
    """
    shape = shape[1:] if len(shape) == 4 else shape
    lengths = (shape[0], shape[-1]) if len(shape) == 3 else ()
    if not any(n in _CHANNELS for n in lengths) or not np.isfinite([*seen, *grid]).all():
        return None
    if not (seen[0] < seen[1] and grid[0] < grid[1]):
        return None
    even = abs(grid[0] + grid[1]) <= 0.02 * (grid[1] - grid[0])
    colours = any(n in _COLOURS for n in lengths)
    if (even and not colours) or _off(seen, grid, even=even) < _FAR:
        return None
    fits: list[tuple[float, Preparation, bool]] = []
    for step, forward, ends in _made(seen):
        factor, width = _ratio(ends, seen), ends[1] - ends[0]
        shifted = abs(ends[0] + ends[1] - factor * (seen[0] + seen[1])) > 2 * _FITS * width
        if even:  # the one number that there is
            factor = grid[1] / max(abs(seen[0]), abs(seen[1]), 1e-30)
        elif 2 * width < grid[1] - grid[0]:
            continue
        times = max(factor, 1 / factor)
        told = times > _PIXELS or (colours and times > _BRIGHT) or (shifted and not even)
        if told and (off := _off(ends, grid, even=even)) <= _FITS:
            fits.append((off, step, forward))
    if not fits:
        return None
    _, best, once_more = min(fits, key=lambda fit: fit[0])
    return best, once_more


def _made(seen: tuple[float, float]) -> Iterator[tuple[Preparation, bool, tuple[float, float]]]:
    """Yield known steps, forward and backward, with the ends that they make of others."""
    low, high = np.array(seen[0]), np.array(seen[1])
    for step in KNOWN:
        for forward in (True, False):
            change = step.forward if forward else step.backward
            lows, highs = change(low, low)[0], change(high, high)[0]
            yield step, forward, (float(lows.min()), float(highs.max()))


def _ratio(ends: tuple[float, float], seen: tuple[float, float]) -> float:
    return (ends[1] - ends[0]) / max(seen[1] - seen[0], 1e-30)


def _off(values: tuple[float, float], grid: tuple[float, float], *, even: bool) -> float:
    """Return how far the ends of a grid are from those of values, over the smaller width."""
    low, high = min(values[0], 0.0), max(values[1], 0.0)
    if even:
        high = max(-low, high)
        low = -high
    width = max(min(high - low, grid[1] - grid[0]), 1e-30)
    return max(abs(low - grid[0]), abs(high - grid[1])) / width


def _listed(values: tuple[float, ...]) -> str:
    text = ", ".join(f"{v:.6g}" for v in values)
    return f"[{text}]" if len(values) > 1 else text
