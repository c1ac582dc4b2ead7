"""Mean average precision: against its definition, and against COCO's own evaluation where pycocotools is installed."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import calibrant
from calibrant.analysis.tasks.corpus import CorpusMetric
from calibrant.analysis.tasks.heads import detections, overlaps
from calibrant.analysis.tasks.registry import task_metric
from calibrant.errors import DataError

Array = np.ndarray[Any, Any]


def scene(seed: int, samples: int = 5, classes: int = 3) -> tuple[list[Array], list[Array]]:
    """Return detections (n, 6) and boxes (n, 5) of each sample: some found well, some badly, some twice, some not at all."""
    rng = np.random.default_rng(seed)
    found: list[Array] = []
    there: list[Array] = []
    for _ in range(samples):
        low = rng.uniform(0, 80, (rng.integers(0, 5), 2))
        boxes = np.hstack([low, low + rng.uniform(20, 50, low.shape)])
        labels = rng.integers(0, classes, len(boxes))
        there.append(np.column_stack([labels, boxes]))
        again = rng.integers(0, len(boxes), 6) if len(boxes) else np.zeros(0, int)
        near = boxes[again] + rng.normal(0, 3, (len(again), 4))
        other = rng.uniform(0, 60, (2, 2))
        near = np.vstack([near, np.hstack([other, other + 20])])
        told = np.append(labels[again], rng.integers(0, classes, 2))
        scores = rng.permutation(len(near)) / len(near) + 0.01
        found.append(np.column_stack([near, scores + 0.001 * len(found), told]))
    return found, there


def value(found: list[Array], there: list[Array], name: str = "map") -> float:
    metric = task_metric(name)
    assert isinstance(metric, CorpusMetric)
    samples = []
    for rows, boxes in zip(found, there, strict=True):
        padded = np.vstack([boxes, np.full((2, 5), -1.0)])[None]
        samples += metric.of_samples({"dets": rows[None]}, {"boxes": padded}, "here")
    return metric.value(samples)


def test_options_of_suppression_act_or_are_refused_where_the_model_has_suppressed() -> None:
    found, there = scene(1)
    kept = [rows[rows[:, 4] > 0.4] for rows in found]
    assert value(found, there, "map,score=0.4") == value(kept, there) != value(found, there)
    for nms in ("0.5", "0.65"):  # the usual one, too: it was asked for
        with pytest.raises(DataError, match=rf"nms={nms} has nothing to do"):
            value(found, there, f"map,nms={nms}")


def overlap(a: Array, b: Array) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def defined(found: list[Array], there: list[Array], limits: list[float]) -> float:
    """Return the mean average precision, from its definition, a detection at a time."""
    precisions = []
    for label in {int(b[0]) for boxes in there for b in boxes}:
        count = sum(int(b[0]) == label for boxes in there for b in boxes)
        for limit in limits:
            taken: set[tuple[int, int]] = set()
            rows = [(r, i) for i, f in enumerate(found) for r in f if r[5] == label]
            hits = []
            for row, i in sorted(rows, key=lambda x: -x[0][4]):
                free = [
                    (overlap(row, b[1:]), k)
                    for k, b in enumerate(there[i])
                    if b[0] == label and (i, k) not in taken
                ]
                best = max(free, default=(0.0, -1))
                hits.append(best[0] >= limit)
                if hits[-1]:
                    taken.add((i, best[1]))
            points = [(sum(hits[:k]) / count, sum(hits[:k]) / k) for k in range(1, len(hits) + 1)]
            best_at = [
                max((p for r, p in points if r >= x), default=0.0) for x in np.linspace(0, 1, 101)
            ]
            precisions.append(sum(best_at) / 101)
    return float(np.mean(precisions))


@given(seed=st.integers(0, 9999))
@settings(deadline=None, max_examples=15)
def test_mean_precision_equals_the_definition(seed: int) -> None:
    found, there = scene(seed)
    if not any(map(len, there)):
        assert np.isnan(value(found, there))
        return
    limits = [0.5 + 0.05 * i for i in range(10)]
    assert value(found, there) == pytest.approx(defined(found, there, limits), abs=1e-9)
    assert value(found, there, "map50") == pytest.approx(defined(found, there, [0.5]), abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_mean_precision_is_that_of_coco(seed: int) -> None:
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    found, there = scene(seed, samples=20)
    boxes = [
        {
            "id": 100 * i + k + 1,
            "image_id": i,
            "category_id": int(b[0]),
            "bbox": [b[1], b[2], b[3] - b[1], b[4] - b[2]],
            "area": (b[3] - b[1]) * (b[4] - b[2]),
            "iscrowd": 0,
        }
        for i, rows in enumerate(there)
        for k, b in enumerate(rows)
    ]
    results = [
        {
            "image_id": i,
            "category_id": int(r[5]),
            "bbox": [r[0], r[1], r[2] - r[0], r[3] - r[1]],
            "score": r[4],
        }
        for i, rows in enumerate(found)
        for r in rows
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": i} for i in range(20)],
            "annotations": boxes,
            "categories": [{"id": i} for i in range(3)],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert value(found, there) == pytest.approx(evaluation.stats[0], abs=1e-9)
    assert value(found, there, "map50") == pytest.approx(evaluation.stats[1], abs=1e-9)


def test_outputs_of_their_own_and_one_output_say_the_same() -> None:
    found, _ = scene(1)
    rows = next(f for f in found if len(f) > 2)
    boxes, scores, classes = rows[None, :, :4], rows[None, :, 4], rows[None, :, 5]
    several = {"classes": classes, "boxes": boxes, "scores": scores}
    assert np.allclose(next(detections(several, "corners", None, None)), rows)
    assert np.allclose(next(detections({"d": rows[None]}, "corners", None, None)), rows)


@given(seed=st.integers(0, 999), most=st.floats(0.1, 0.9))
@settings(deadline=None, max_examples=30)
def test_suppression_keeps_what_no_better_one_covers(seed: int, most: float) -> None:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 20, (1, 12, 2))
    boxes, scores = np.dstack([low, low + 10]), rng.random((1, 12, 2))
    kept = next(detections({"b": boxes, "s": scores}, "corners", 0.3, most))
    assert (kept[:, 4] > 0.3).all()
    assert (np.diff(kept[:, 4]) <= 0).all()
    for label in (0, 1):
        mine = kept[kept[:, 5] == label]
        shared = overlaps(mine, mine) - np.eye(len(mine))
        assert (shared <= most).all()
        for box, score in zip(boxes[0], scores[0, :, label], strict=True):
            if score > 0.3 and not (mine[:, 4] == score).any():
                better = mine[mine[:, 4] >= score]
                assert max(overlap(b, box) for b in better) > most


def test_heads_are_decoded() -> None:
    x, y, width, height = 40.0, 24.0, 16.0, 8.0
    corners = [x - 8, y - 4, x + 8, y + 4]
    raw = np.full((1, 84, 7), -50.0)  # of 64 x 64 pixels: 64 + 16 + 4 cells
    raw[..., 4:] = 0
    cell = 3 * 8 + 4  # of stride 8: column 4, row 3
    raw[0, cell] = [x / 8 - 4, y / 8 - 3, np.log(width / 8), np.log(height / 8), 0.5, 0.1, 0.8]
    found = next(detections({"o": raw}, "yolox", 0.2, 0.65))
    assert np.allclose(found, [[*corners, 0.4, 1]])
    five = np.zeros((1, 3, 7))
    five[0, 2] = [x, y, width, height, 0.5, 0.1, 0.8]
    assert np.allclose(next(detections({"o": five}, "yolov5", 0.2, 0.65)), [[*corners, 0.4, 1]])
    eight = np.zeros((1, 6, 9))
    eight[0, :, 5] = [x, y, width, height, 0.1, 0.8]
    assert np.allclose(next(detections({"o": eight}, "yolov8", 0.2, 0.65)), [[*corners, 0.8, 1]])


DETECTOR = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 5, 6] x) => (float[N, 5, 6] detections)
{ detections = Identity(x) }
"""


def test_boxes_come_as_rows_or_sample_by_sample() -> None:
    """The model hands its input on, so samples are detections."""
    found, there = scene(7, samples=9)
    rows = np.stack([np.vstack([f, np.zeros((5, 6))])[:5] for f in found]).astype(np.float32)
    flat = np.vstack([np.column_stack([np.full(len(b), i), b]) for i, b in enumerate(there)])
    padded = np.full((9, 6, 5), -1.0)
    for i, b in enumerate(there):
        padded[i, : len(b)] = b
    model = onnx.parser.parse_model(DETECTOR)
    order = np.random.default_rng(0).permutation(len(flat))
    told = [
        calibrant.evaluate(model, {"x": rows, name: boxes}, "map", batch_size=4).value
        for name, boxes in (("boxes", flat[order]), ("boxes", padded), ("labels", padded))
    ]
    expected = value([np.asarray(r, np.float64) for r in rows], there)
    assert told == pytest.approx([expected] * 3, abs=1e-6)


def test_boxes_that_do_not_fit_are_refused() -> None:
    model = onnx.parser.parse_model(DETECTOR)
    x = np.zeros((4, 5, 6), np.float32)
    with pytest.raises(DataError, match="belongs to sample 4; samples run from 0 to 3"):
        calibrant.evaluate(model, {"x": x, "boxes": np.array([[4.0, 0, 1, 1, 2, 2]])}, "map")
    with pytest.raises(DataError, match=r"expected is \(samples, most, 5\)"):
        calibrant.evaluate(model, {"x": x, "labels": np.zeros(4)}, "map")
    with pytest.raises(DataError, match="no array 'boxes'"):
        calibrant.evaluate(model, {"x": x}, "map")
    with pytest.raises(DataError, match="strides 8, 16 and 32"):
        calibrant.evaluate(model, {"x": x, "boxes": np.zeros((4, 1, 5))}, "map,head=yolox")
