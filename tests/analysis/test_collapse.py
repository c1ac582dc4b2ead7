"""A part that says nothing any more is named, also where the figures of the whole output are fine."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from calibrant.analysis.collapse import collapsed, part_qualities, part_rows
from calibrant.analysis.parts import Part

Array = npt.NDArray[Any]

BOXES, SCORES = Part("y[..., 0:4]", ((2, ((0, 4),)),)), Part("y[..., 4]", ((2, ((4, 5),)),))
PARTS = {"y": (BOXES, SCORES)}
RNG = np.random.default_rng(0)


def detections() -> Array:
    """Return boxes of 0 to 640 and scores of 0 to 1 (16, 20, 5)."""
    y = RNG.uniform(0, 640, (16, 20, 5))
    y[..., 4] /= 640
    return y


def int8(y: Array) -> Array:
    """Round to 256 steps over the whole range."""
    step = (y.max() - y.min()) / 255
    return np.rint(y / step) * step


def told(y: Array, out: Array, parts: Any = None, sizes: list[int] | None = None) -> list[str]:
    return collapsed([{"y": y}], [{"y": out}], parts or PARTS, sizes=sizes or [len(y)])


def test_scores_lost_beside_boxes_are_named_though_the_output_has_over_40_db() -> None:
    y = detections()
    (text,) = told(y, int8(y))
    assert text.startswith(
        "Output 'y' has collapsed in part 'y[..., 4]': it is 0 throughout, where"
    )
    assert told(y, int8(y), {"y": (Part("y"),)}) == []
    (whole,) = part_qualities([{"y": y}], [{"y": int8(y)}], {"y": (Part("y"),)})["y"]
    assert whole.sqnr_db > 40


def test_a_good_model_is_not_warned_of() -> None:
    y = detections()
    out = y.copy()
    out[..., :4], out[..., 4] = int8(y[..., :4]), int8(y[..., 4])
    assert told(y, out) == []


def test_next_to_constant() -> None:
    y = detections()
    out = y.copy()
    out[..., 4] = 0.5 + 0.01 * (y[..., 4] - 0.5)
    (text,) = told(y, out)
    assert "next to the same for every sample" in text


def test_columns_that_stand_still_at_values_of_their_own() -> None:
    y = RNG.normal(size=(16, 8)) + 10 * np.arange(8)
    out = np.broadcast_to(y.mean(axis=0), y.shape)
    (text,) = told(y, out, {"y": (Part("y"),)})
    assert text.startswith("Output 'y' has collapsed: it is next to the same for every sample")
    assert told(y, y + 0.1, {"y": (Part("y"),)}) == []


def test_copies_of_one_sample_do_not_move_and_that_is_no_collapse() -> None:
    y = np.repeat(detections()[:1], 16, axis=0)
    assert told(y, y + 1e-3 * RNG.normal(size=y.shape)) == []


def test_an_error_as_large_as_the_spread() -> None:
    y = 100 + RNG.normal(size=(16, 20, 5))
    (text,) = told(y, y + RNG.normal(size=y.shape) * 1.5, {"y": (Part("y"),)})
    assert "one value throughout would be as near" in text


def test_few_distinct_values() -> None:
    y = np.sort(RNG.uniform(size=(1, 4000)))
    (text,) = told(y, np.rint(y * 4) / 4, {"y": (Part("y"),)})
    assert text == "Output 'y' keeps 2.0% of its distinct values: it may have collapsed."


def test_figures_below_the_limits() -> None:
    y = RNG.normal(size=(16, 50))
    (text,) = told(y, y + 0.7 * RNG.normal(size=y.shape), {"y": (Part("y"),)})
    assert "SQNR 3." in text


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite(bad: float) -> None:
    y = detections()
    out = y.copy()
    out[3, 2, 4] = bad
    (text,) = told(y, out)
    assert "in part 'y[..., 4]': it holds values that are not finite" in text


def test_a_constant_part_has_nothing_to_lose() -> None:
    y = detections()
    y[..., 4] = 0.25
    out = y.copy()
    out[..., 4] = 0
    assert told(y, out) == []
    assert [p.constant for p in part_qualities([{"y": y}], [{"y": out}], PARTS)["y"]] == [
        False,
        True,
    ]


def test_masks_of_the_float_model_are_left_out() -> None:
    y = detections()
    y[:, 0] = -np.inf
    assert told(y, np.where(np.isfinite(y), y, -1e9)) == []


def test_rows_for_the_summary() -> None:
    y = detections()
    rows = part_rows(
        part_qualities([{"y": y[:9]}, {"y": y[9:]}], [{"y": y[:9]}, {"y": y[9:]}], PARTS)
    )
    assert [r["name"] for r in rows["y"]] == ["y[..., 0:4]", "y[..., 4]"]
    assert all(r["sqnr_db"] == math.inf and r["cosine"] == pytest.approx(1) for r in rows["y"])
    assert all(r["collapsed"] == "" for r in rows["y"])


@pytest.mark.parametrize(
    "y",
    [np.zeros((0, 3), np.float32), np.float32(2), np.zeros(3, np.float32)],
    ids=["empty", "scalar", "zeros"],
)
def test_degenerate_outputs(y: Array) -> None:
    assert collapsed([{"y": y}], [{"y": y}], {"y": (Part("y"),)}) == []


def test_labels_and_other_shapes_are_left_out() -> None:
    labels, boxes = np.arange(5), np.zeros((3, 4))
    reference = [{"y": labels, "z": boxes}]
    found = part_qualities(
        reference, [{"y": labels, "z": boxes[:2]}], {"y": (Part("y"),), "z": (Part("z"),)}
    )
    assert found == {}
