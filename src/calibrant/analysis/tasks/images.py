"""Images that a network makes: how near they are to those they should be.

    psnr    10 log10( peak^2 / mean (y - r)^2 ) over all values of all samples            [dB]; inf for equal images
    ssim    (2 m_y m_r + c1)(2 s_yr + c2) / ((m_y^2 + m_r^2 + c1)(s_y^2 + s_r^2 + c2))    the mean over positions, channels, samples

with c1 = (0.01 peak)^2, c2 = (0.03 peak)^2, and means m, variances s^2 and the covariance s_yr in a Gaussian window of standard
deviation 1.5 (11 x 11), where it lies within the image.

Sources: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity", IEEE
Transactions on Image Processing 13 (4), 2004 (both, and the window).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from calibrant.algorithms.options import Positive, options
from calibrant.analysis.task_metrics import BatchMetric
from calibrant.analysis.tasks.corpus import CorpusMetric, of_pairs
from calibrant.analysis.tasks.regression import numbers_and_references
from calibrant.data.batch import AnyArray
from calibrant.errors import DataError

__all__ = ["Psnr", "Ssim"]

Floats = npt.NDArray[np.float64]

#: Half the window, without its centre.
_RADIUS = 5


@options
class Psnr:
    """Peak signal-to-noise ratio in dB.

    Args:
        peak: Largest value that there can be: 1 or 255; 0 for the range of the references.
    """

    peak: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    def metric(self, name: str) -> CorpusMetric:
        """Return the metric."""
        return CorpusMetric(name, of_pairs(_errors), self._value)

    def _value(self, samples: Sequence[tuple[float, int, float, float]]) -> float:
        total, count, low, high = (np.array(x) for x in zip(*samples, strict=True))
        peak = self.peak or float(high.max() - low.min())
        if peak == 0:
            return math.nan
        if total.sum() == 0:
            return math.inf
        return float(10 * math.log10(peak**2 * count.sum() / total.sum()))


@options
class Ssim:
    """Structural similarity of images, the mean over samples.

    Args:
        peak: Largest value that there can be: 1 or 255.
    """

    peak: Positive = 1.0

    def metric(self, name: str) -> BatchMetric:
        """Return the metric."""
        return BatchMetric(name, self._each, bounds=(-1.0, 1.0))

    def _each(self, y: AnyArray, r: AnyArray) -> tuple[Floats, int]:
        y, r = numbers_and_references(y, r)
        if y.ndim == 3:
            y, r = y[:, np.newaxis], r[:, np.newaxis]
        if y.ndim != 4:
            raise DataError(f"images have shape {y.shape}; expected is {_SHAPES}.")
        last = y.shape[3] in (1, 3, 4) and y.shape[1] not in (1, 3, 4)
        axes = (1, 2) if last else (2, 3)
        if min(y.shape[a] for a in axes) <= 2 * _RADIUS:
            raise DataError(
                f"images have shape {y.shape}; each side is {2 * _RADIUS + 1} or more, and the shape {_SHAPES}."
            )
        found = _similarity(y, r, self.peak, axes).reshape(len(y), -1)
        return found.mean(axis=1), 1


_SHAPES = "(samples, height, width), (samples, channels, height, width), or channels last where there are 1, 3 or 4"


def _errors(y: AnyArray, r: AnyArray) -> list[tuple[float, int, float, float]]:
    """Return (squared error, values, least reference, largest reference) of each sample."""
    y, r = numbers_and_references(y, r)
    y, r = y.reshape(len(y), -1), r.reshape(len(r), -1)
    return [
        (float(((a - b) ** 2).sum()), b.size, float(b.min()), float(b.max()))
        for a, b in zip(y, r, strict=True)
    ]


def _similarity(y: Floats, r: Floats, peak: float, axes: tuple[int, int]) -> Floats:
    """Return the similarity at each position where the window lies within the image."""
    mean_y, mean_r = _blurred(y, axes), _blurred(r, axes)
    var_y = _blurred(y * y, axes) - mean_y**2
    var_r = _blurred(r * r, axes) - mean_r**2
    both = _blurred(y * r, axes) - mean_y * mean_r
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    above = (2 * mean_y * mean_r + c1) * (2 * both + c2)
    return np.asarray(above / ((mean_y**2 + mean_r**2 + c1) * (var_y + var_r + c2)))


def _blurred(x: Floats, axes: tuple[int, int]) -> Floats:
    from scipy.ndimage import correlate1d

    window = np.exp(-(np.arange(-_RADIUS, _RADIUS + 1) ** 2) / (2 * 1.5**2))
    for axis in axes:
        x = correlate1d(x, window / window.sum(), axis=axis, mode="nearest")
        x = np.take(x, np.arange(_RADIUS, x.shape[axis] - _RADIUS), axis=axis)
    return x
