"""Segmentation: the overlap of what is found with what is there, class by class.

With TP, FP, FN the positions of all samples that are rightly, wrongly, and not given to class c,

    IoU_c = TP / (TP + FP + FN)          mIoU = mean of IoU_c over the classes that occur in output or labels

Positions whose label is `ignore` count nowhere.

Source: Everingham et al., "The Pascal Visual Object Classes Challenge: a retrospective", IJCV 111, 2015, section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from calibrant.algorithms.options import options
from calibrant.analysis.tasks.corpus import CorpusMetric, of_pairs
from calibrant.data.batch import AnyArray
from calibrant.errors import DataError

__all__ = ["MeanIou"]

Counts = npt.NDArray[np.int64]


@options
class MeanIou:
    """Mean intersection over union of the classes of a segmentation.

    Args:
        ignore: Label of positions that do not count.
    """

    ignore: Annotated[int, Field(ge=-1)] = 255

    def metric(self, name: str) -> CorpusMetric:
        """Return the metric."""
        return CorpusMetric(name, of_pairs(self._each), _mean)

    def _each(self, y: AnyArray, labels: AnyArray) -> list[Counts]:
        """Return (right, found, there) of each class in each sample, (3, classes)."""
        labels = _flat(labels)
        found, classes = _classes(y, labels)
        if labels.dtype.kind not in "iufb" or (labels != np.rint(labels)).any():
            raise DataError("labels have to be class numbers, whole and from 0.")
        counted = labels != self.ignore
        there = np.where(counted, labels, 0).astype(np.int64)
        if there.min() < 0 or (classes is not None and there.max() >= classes):
            most = f"0 to {classes - 1}" if classes is not None else "0 on"
            raise DataError(
                f"labels run from {there.min()} to {there.max()}, {self.ignore} left out; classes run from {most}."
            )
        size = classes if classes is not None else int(max(found.max(), there.max())) + 1
        return [_count(f[c], t[c], size) for f, t, c in zip(found, there, counted, strict=True)]


def _classes(y: AnyArray, labels: AnyArray) -> tuple[Counts, int | None]:
    """Return the class of each position, and how many classes there are, where scores say it."""
    if y.dtype.kind in "iub" and _flat(y).shape == labels.shape:
        return _flat(y).astype(np.int64), None
    for axis in (1, y.ndim - 1):
        rest = tuple(d for i, d in enumerate(y.shape) if i != axis)
        if y.ndim == labels.ndim + 1 and rest == labels.shape and y.shape[axis] > 1:
            return y.argmax(axis=axis).astype(np.int64), y.shape[axis]
    raise DataError(
        f"the output has shape {y.shape} ({y.dtype}) and the labels {labels.shape}; expected are scores (samples, classes, "
        "height, width) or (samples, height, width, classes) of 2 classes or more, or class numbers as integers (samples, "
        "height, width), with labels (samples, height, width)."
    )


def _flat(x: AnyArray) -> AnyArray:
    """Drop the axis of a single channel, which stands before or behind height and width."""
    if x.ndim == 4 and 1 in (x.shape[1], x.shape[3]):
        return x[:, 0] if x.shape[1] == 1 else x[..., 0]
    return x


def _count(found: Counts, there: Counts, classes: int) -> Counts:
    right = found[found == there]
    return np.stack([np.bincount(x, minlength=classes) for x in (right, found, there)])


def _mean(samples: Sequence[Counts]) -> float:
    classes = max(s.shape[1] for s in samples)
    total = np.zeros((3, classes), np.int64)
    for s in samples:
        total[:, : s.shape[1]] += s
    right, found, there = total
    union = found + there - right
    occurs = union > 0
    return float((right[occurs] / union[occurs]).mean()) if occurs.any() else math.nan
