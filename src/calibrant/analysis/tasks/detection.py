"""Detection: mean average precision, as the evaluation of COCO defines it.

In each sample and class, detections are gone through from the best score on; each takes the box that is there, not taken yet,
and overlaps it most, if by t or more. That is a hit. Of all samples together, by falling score, with n boxes there,

    precision_k = hits among the first k / k        recall_k = hits among the first k / n
    AP(t)       = mean over r in {0, 0.01, …, 1} of the largest precision with recall r or more; 0 where there is none
    mAP         = mean over classes, and over t in {0.5, 0.55, …, 0.95}

Classes without a box are left out, and 100 detections a sample and class count, those of best score. There are no crowd boxes, no
difficult ones, and no ranges of area.

References are boxes in the same units as detections: (samples, most, 5) with class, x1, y1, x2, y2 and a class below 0 behind the
last one, or, as an array `boxes`, rows (boxes, 6) with the sample's index before these.

Source: Lin et al., "Microsoft COCO: common objects in context", ECCV 2014, and the evaluation described at
https://cocodataset.org/#detection-eval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from calibrant.algorithms.options import options
from calibrant.analysis.tasks.corpus import CorpusMetric
from calibrant.analysis.tasks.heads import Detections, detections, overlaps
from calibrant.data.batch import AnyArray
from calibrant.errors import DataError

__all__ = ["Matched", "MeanPrecision", "MeanPrecisionAt50", "matched", "mean_precision"]

Floats = npt.NDArray[np.float64]

#: Overlaps from which on a detection is right.
OVERLAPS = tuple(0.5 + 0.05 * i for i in range(10))

#: Detections of one sample and class that count.
_MOST = 100

Share = Annotated[float, Field(ge=0, le=1)]
Head = Literal["corners", "yolox", "yolov5", "yolov8"]


@options
class MeanPrecision:
    """Mean average precision of a detector, COCO's (overlaps of 0.50 to 0.95).

    Args:
        head: What the outputs are.
        score: Score that a detection has to be above. Default: 0.01, or none where the model has suppressed detections itself.
        nms: Overlap of two detections of one class, at most. Default: 0.65. It is an error where the model has suppressed them.
    """

    head: Head = "corners"
    score: Share | None = None
    nms: Share | None = None

    def metric(self, name: str) -> CorpusMetric:
        """Return the metric."""
        return _metric(name, self.head, self.score, self.nms, OVERLAPS)


@options
class MeanPrecisionAt50(MeanPrecision):
    """Mean average precision of a detector at an overlap of 0.5, with the options of `MeanPrecision`."""

    def metric(self, name: str) -> CorpusMetric:
        """Return the metric."""
        return _metric(name, self.head, self.score, self.nms, OVERLAPS[:1])


@dataclass(frozen=True, slots=True, eq=False)
class Matched:
    """What one sample contributes.

    Args:
        classes: Class of each detection (n,).
        scores: Its score (n,).
        hits: Whether it takes a box, at each overlap (n, overlaps).
        there: Class of each box that is there (boxes,).
    """

    classes: Floats
    scores: Floats
    hits: npt.NDArray[np.bool_]
    there: Floats


def matched(found: Detections, there: Floats, limits: Sequence[float]) -> Matched:
    """Match the detections of one sample with its boxes.

    Args:
        found: (n, 6): x1, y1, x2, y2, score, class.
        there: (boxes, 5): class, x1, y1, x2, y2.
        limits: Overlaps from which on a detection is right.
    """
    found = found[np.argsort(-found[:, 4], kind="stable")]
    kept, hits = [], []
    for label in np.unique(found[:, 5]):
        mine = found[found[:, 5] == label][:_MOST]
        kept.append(mine)
        hits.append(_hits(overlaps(mine, there[there[:, 0] == label][:, 1:]), limits))
    rows = np.concatenate(kept) if kept else np.zeros((0, 6))
    taken = np.concatenate(hits) if hits else np.zeros((0, len(limits)), bool)
    return Matched(rows[:, 5], rows[:, 4], taken, there[:, 0])


def mean_precision(samples: Sequence[Matched]) -> float:
    """Return the mean average precision of samples; NaN where no box is there."""
    there = np.concatenate([s.there for s in samples])
    classes = np.concatenate([s.classes for s in samples])
    scores = np.concatenate([s.scores for s in samples])
    hits = np.concatenate([s.hits for s in samples])
    order = np.lexsort((-scores, classes))  # stable: of equal scores the earlier sample is first
    classes, hits = classes[order], hits[order]
    found = []
    for label, count in zip(*np.unique(there, return_counts=True), strict=True):
        first, last = np.searchsorted(classes, label), np.searchsorted(classes, label, "right")
        found.append(_precision(hits[first:last], int(count)))
    return float(np.mean(found)) if found else math.nan


def _hits(overlap: Floats, limits: Sequence[float]) -> npt.NDArray[np.bool_]:
    """Return which detections of one class, best first, take a box at each limit (n, limits)."""
    found = np.zeros((len(overlap), len(limits)), bool)
    if not overlap.shape[1]:
        return found
    free = np.ones((len(limits), overlap.shape[1]), bool)
    each = np.arange(len(limits))
    enough = np.minimum(np.asarray(limits), 1 - 1e-10)
    for i in np.flatnonzero(overlap.max(axis=1) >= enough.min()):
        open_ = np.where(free, overlap[i], -1.0)  # (limits, boxes)
        best = (
            open_.shape[1] - 1 - open_[:, ::-1].argmax(axis=1)
        )  # of equal ones the last, as COCO's
        found[i] = open_[each, best] >= enough
        free[each[found[i]], best[found[i]]] = False
    return found


def _precision(hits: npt.NDArray[np.bool_], count: int) -> float:
    """Return the average precision of one class, the mean over the limits."""
    if not len(hits):
        return 0.0
    right = np.cumsum(hits, axis=0)  # (n, limits)
    precision = right / np.arange(1, len(hits) + 1)[:, None]
    precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    recalls = np.linspace(0, 1, 101)
    found = 0.0
    for got, best in zip(right.T, precision.T, strict=True):
        index = np.searchsorted(got / count, recalls, side="left")
        found += float(np.append(best, 0.0)[index].mean())
    return float(found / hits.shape[1])


def _metric(
    name: str, head: str, least: float | None, most: float | None, limits: Sequence[float]
) -> CorpusMetric:
    def each(outputs: Mapping[str, AnyArray], references: Mapping[str, AnyArray]) -> list[Matched]:
        boxes = _boxes(references)
        found = list(detections(outputs, head, least, most))
        if len(found) != len(boxes):
            raise DataError(f"there are {len(found)} outputs for {len(boxes)} references.")
        return [
            matched(d, b[b[:, 0] >= 0].astype(np.float64), limits)
            for d, b in zip(found, boxes, strict=True)
        ]

    return CorpusMetric(name, each, mean_precision)


def _boxes(references: Mapping[str, AnyArray]) -> AnyArray:
    """Return the boxes that are there (samples, most, 5)."""
    named = [n for n in ("boxes", "labels") if n in references] or list(references)
    if len(named) != 1 and named[:1] not in (["boxes"], ["labels"]):
        there = f"it has {', '.join(named)}" if named else "it has none besides the model's inputs"
        raise DataError(f"the data has no array 'boxes' to compare detections with; {there}.")
    boxes = references[named[0]]
    if boxes.ndim != 3 or boxes.shape[2] != 5 or boxes.dtype.kind not in "iuf":
        raise DataError(
            f"'{named[0]}' has shape {boxes.shape} a batch; expected is (samples, most, 5): class, x1, y1, x2, y2, and a class "
            "below 0 behind the last box; or, under the name 'boxes', rows (boxes, 6): sample, class, x1, y1, x2, y2."
        )
    return boxes
