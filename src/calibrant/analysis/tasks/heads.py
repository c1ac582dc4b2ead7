"""What detectors give, as boxes: corners, scores and classes, one row a detection, best first.

    corners    (samples, n, 6): x1, y1, x2, y2, score, class; or boxes (samples, n, 4), scores and classes (samples, n) as outputs of
               their own. Nothing is suppressed. Boxes (samples, n, 4) with scores (samples, n, classes) are suppressed.
    yolox      (samples, n, 5 + classes), not decoded: for the cell (i, j) of a grid of stride s, x = (i + v_0) s, y = (j + v_1) s,
               width exp(v_2) s, height exp(v_3) s, score v_4 v_(5 + class); strides 8, 16, 32 of a square image
    yolov5     (samples, n, 5 + classes): x, y, width, height, and score v_4 v_(5 + class)
    yolov8     (samples, 4 + classes, n): x, y, width, height, and a score for each class

x and y are centres. Suppression goes through detections from the best score on, and drops what overlaps a kept one of the same
class by more than a limit; 100 are kept.

Sources: Ge et al., "YOLOX: Exceeding YOLO series in 2021", arXiv 2107.08430 (the head that predicts offsets and logarithms of
sizes); Neubeck, Van Gool, "Efficient non-maximum suppression", ICPR 2006.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from calibrant.data.batch import AnyArray
from calibrant.errors import DataError

__all__ = ["HEADS", "OVERLAP", "SCORE", "Detections", "detections", "overlaps", "suppressed"]

Floats = npt.NDArray[np.float64]

#: (n, 6): x1, y1, x2, y2, score, class.
Detections = Floats

#: Detections of one sample, at most, and candidates that suppression looks at.
MOST, CANDIDATES = 100, 3000

#: What is usual where detections are suppressed here: their least score, and the overlap of two of a class.
SCORE, OVERLAP = 0.01, 0.65

_STRIDES = (8, 16, 32)
_LARGEST = 20.0  # of logarithms of sizes: e^20 cells are beyond any image


def detections(
    outputs: Mapping[str, AnyArray], head: str, least: float | None, most: float | None
) -> Iterator[Detections]:
    """Yield the detections of each sample.

    Args:
        outputs: What the model gives, of one batch.
        head: One of `HEADS`.
        least: Score that a detection has to be above; None for `SCORE`, or for none where the model has suppressed them.
        most: Overlap of two detections of one class, at most; None for `OVERLAP`. It is an error where the model has suppressed them.

    Raises:
        DataError: Outputs do not have the shapes of the head, or they were suppressed and an overlap is asked for.
    """
    if head == "corners":
        yield from _corners(outputs, least, most)
        return
    name, y = next(iter(outputs.items()))
    if y.ndim != 3:
        raise DataError(f"output '{name}' has shape {y.shape}; {_EXPECTED[head]}.")
    for boxes, scores in HEADS[head](y.astype(np.float64), name):
        yield suppressed(boxes, scores, least, most)


def _rows(rows: Floats, least: float | None, most: float | None) -> Detections:
    """Return detections that were suppressed by the model: those above a score."""
    if most is not None:
        raise DataError(
            f"the model gives detections that are suppressed already, so nms={most:g} has nothing to do; leave it out."
        )
    return rows[rows[:, 4] > (0.0 if least is None else least)]


def suppressed(
    boxes: Floats, scores: Floats, least: float | None, most: float | None
) -> Detections:
    """Return the best detections of one sample, without those that overlap a better one of their class.

    Args:
        boxes: Corners (n, 4).
        scores: (n, classes).
        least: As for `detections`.
        most: As for `detections`.
    """
    least, most = SCORE if least is None else least, OVERLAP if most is None else most
    row, label = np.nonzero(scores > least)
    score = scores[row, label]
    order = np.argsort(-score, kind="stable")[:CANDIDATES]
    boxes, score, label = boxes[row[order]], score[order], label[order]
    kept: list[int] = []
    left = np.arange(len(score))
    while len(left) and len(kept) < MOST:
        best, left = int(left[0]), left[1:]
        kept.append(best)
        near = (label[left] == label[best]) & (overlaps(boxes[[best]], boxes[left])[0] > most)
        left = left[~near]
    return np.column_stack([boxes, score, label])[kept]


def overlaps(first: Floats, second: Floats) -> Floats:
    """Return intersection over union of all pairs of boxes (first, second); 0 where neither has an area."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:4], second[None, :, 2:4])
    both = np.clip(high - low, 0, None).prod(axis=2)
    mine, other = ((b[:, 2:4] - b[:, :2]).prod(axis=1) for b in (first, second))
    union = mine[:, None] + other[None] - both
    return np.asarray(np.divide(both, union, out=np.zeros_like(both), where=union > 0))


def _corners(
    outputs: Mapping[str, AnyArray], least: float | None, most: float | None
) -> Iterator[Detections]:
    arrays = list(outputs.values())
    if len(arrays) == 1 and arrays[0].ndim == 3 and arrays[0].shape[2] == 6:
        for rows in arrays[0].astype(np.float64):
            yield _rows(rows, least, most)
        return
    boxes = next((x for x in arrays if x.ndim == 3 and x.shape[2] == 4), None)
    others = [(n, x) for n, x in outputs.items() if x is not boxes]
    if boxes is not None:
        flat = [(n, x) for n, x in others if x.shape == boxes.shape[:2]]
        if len(flat) == 2:
            (_, scores), (_, classes) = sorted(flat, key=lambda f: _is_class(*f))
            stacked = np.dstack([boxes, scores, classes]).astype(np.float64)
            for rows in stacked:
                yield _rows(rows, least, most)
            return
        if (
            len(others) == 1
            and others[0][1].ndim == 3
            and others[0][1].shape[:2] == boxes.shape[:2]
        ):
            scored = others[0][1].astype(np.float64)
            for corners, scores in zip(boxes.astype(np.float64), scored, strict=True):
                yield suppressed(corners, scores, least, most)
            return
    shapes = ", ".join(f"{n} {x.shape}" for n, x in outputs.items())
    raise DataError(f"the outputs are {shapes}; {_EXPECTED['corners']}.")


def _is_class(name: str, x: AnyArray) -> tuple[bool, bool]:
    """Sort outputs: scores first, classes behind them."""
    return x.dtype.kind in "iu", any(word in name.lower() for word in ("class", "label"))


def _yolox(y: Floats, name: str) -> Iterator[tuple[Floats, Floats]]:
    side = math.isqrt(y.shape[1] * 32 * 32 // 21)  # 16 + 4 + 1 cells of each 32 x 32 pixels
    if side % 32 or y.shape[1] * 32 * 32 != 21 * side * side or y.shape[2] < 6:
        raise DataError(f"output '{name}' has shape {y.shape}; {_EXPECTED['yolox']}.")
    grids, strides = [], []
    for stride in _STRIDES:
        i, j = np.meshgrid(np.arange(side // stride), np.arange(side // stride))
        grids.append(np.stack([i, j], axis=-1).reshape(-1, 2))
        strides.append(np.full((i.size, 1), stride))
    grid, stride_of = np.concatenate(grids), np.concatenate(strides)
    for rows in y:
        centre = (rows[:, :2] + grid) * stride_of
        size = np.exp(np.minimum(rows[:, 2:4], _LARGEST)) * stride_of
        yield _of_centres(centre, size), rows[:, 4:5] * rows[:, 5:]


def _yolov5(y: Floats, name: str) -> Iterator[tuple[Floats, Floats]]:
    if y.shape[2] < 6:
        raise DataError(f"output '{name}' has shape {y.shape}; {_EXPECTED['yolov5']}.")
    for rows in y:
        yield _of_centres(rows[:, :2], rows[:, 2:4]), rows[:, 4:5] * rows[:, 5:]


def _yolov8(y: Floats, name: str) -> Iterator[tuple[Floats, Floats]]:
    if y.shape[1] < 5:
        raise DataError(f"output '{name}' has shape {y.shape}; {_EXPECTED['yolov8']}.")
    for rows in y.transpose(0, 2, 1):
        yield _of_centres(rows[:, :2], rows[:, 2:4]), rows[:, 4:]


def _of_centres(centre: Floats, size: Floats) -> Floats:
    return np.hstack([centre - size / 2, centre + size / 2])


#: Heads that are decoded -> (output, its name) to corners (n, 4) and scores (n, classes) of each sample.
HEADS: Mapping[str, Callable[[Any, str], Iterator[tuple[Floats, Floats]]]] = {
    "yolox": _yolox,
    "yolov5": _yolov5,
    "yolov8": _yolov8,
}

_EXPECTED = {
    "corners": (
        "head=corners takes one output (samples, n, 6) with x1, y1, x2, y2, score, class; or boxes (samples, n, 4) with scores and "
        "classes (samples, n) each; or boxes (samples, n, 4) with scores (samples, n, classes)"
    ),
    "yolox": (
        "head=yolox takes one output (samples, n, 5 + classes) that is not decoded, of a square image, n the cells of strides "
        "8, 16 and 32"
    ),
    "yolov5": "head=yolov5 takes one output (samples, n, 5 + classes) first: x, y, width, height, object, classes",
    "yolov8": "head=yolov8 takes one output (samples, 4 + classes, n) first: x, y, width, height, classes",
}
